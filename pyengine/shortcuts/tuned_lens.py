"""The tuned lens of a fit: trained on the rows that the maps were fitted on, scored beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyengine.analyses.analysis_inputs import tokenized
from pyengine.corpus import Corpus
from pyengine.engine import Pass
from pyengine.errors import PyengineError
from pyengine.extraction.run import make_plan
from pyengine.manifest import describe_corpus
from pyengine.models import Model
from pyengine.reducers.rows import RowBuffer
from pyengine.shortcuts.fit_run import masking, sample_of
from pyengine.shortcuts.fit_settings import FitSettings
from pyengine.shortcuts.lens import final_readout, own_stack
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.points import TO_LAST, points_of
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.sample import TRAIN, Draw, Sample
from pyengine.shortcuts.solvers import ROWS
from pyengine.shortcuts.stack_fit import state_dtype
from pyengine.shortcuts.states_feed import KeptFeed
from pyengine.shortcuts.translators import Training, train_translators
from pyengine.store import TokenStore


def train_tuned_lens(
    shortcuts: Shortcuts,
    model: Model,
    corpus: Corpus | TokenStore,
    training: Training = Training(),  # noqa: B008  # frozen
    *,
    stack: str | None = None,
    layers: Sequence[int] | None = None,
    cache_dir: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[int, LinearMap]:
    """Train an affine map to the last layer for each layer, so that the model's output is matched.

    The rows are read again, in one pass, and held: n_train x (L + 1) x d_model float32 on the
    model's device. The validation rows are not among them. For example::

        lens = train_tuned_lens(shortcuts, model, corpus)
        scores = evaluate(shortcuts, model, extra={"tuned": lens})

    Args:
        shortcuts: a fit, which says which rows.
        model: the one that was fitted.
        corpus: the one that it was fitted on.
        training: optimiser, epochs, seed.
        stack: whose layers; None: the only fitted one, or the decoder.
        layers: some of 0 … L - 1; None: all.
        cache_dir: where the tokenised corpus is kept; None: the user's cache.
        on_progress: called with (steps done, in all).

    Returns:
        Of each layer the map to x_L.

    Raises:
        PyengineError: if model or corpus are others than those of the fit, or the stack has no
            output head.
    """
    shortcuts.check(model)
    stack = stack or own_stack(shortcuts)
    n_layers = shortcuts.n_layers(stack)
    if wrong := [layer for layer in layers or () if not 0 <= layer < n_layers]:
        raise PyengineError(f"layer {wrong[0]} is out of range; 0 to {n_layers - 1} can be trained")
    read = final_readout(model, stack)
    states = training_states(shortcuts, model, corpus, stack, cache_dir=cache_dir)
    return train_translators(read, states, training, layers=layers, on_progress=on_progress)


def training_states(
    shortcuts: Shortcuts,
    model: Model,
    corpus: Corpus | TokenStore,
    stack: str,
    *,
    cache_dir: str | Path | None = None,
) -> Tensor:
    """Read the rows again that a fit was trained on.

    Returns:
        [n, L + 1, d_model] on the model's device, sorted by unit and position; float32, of a
        float64 model float64.

    Raises:
        PyengineError: if the corpus is another.
    """
    settings = _settings(shortcuts)
    store = tokenized(model, corpus, bos=settings.bos, cache_dir=cache_dir)
    if describe_corpus(store)["sha256"] != shortcuts.manifest["corpus"]["sha256"]:
        raise PyengineError(
            "the corpus is not the one that was fitted on: its rows for validation could be "
            "trained on"
        )
    sample = sample_of(model, settings, store)
    rows = _rows(model, stack, settings, sample)
    return rows.rows.view(-1, rows.n_points, rows.d_model)


def _rows(model: Model, stack: str, settings: FitSettings, sample: Sample) -> RowBuffer:
    points = points_of(model, stack)
    dtype = state_dtype(model.dtype)
    width = int(model.config.hidden_size)
    found = RowBuffer(len(points.sites), width, dtype=dtype, device=model.device)
    plan = make_plan(
        sample.store,
        (0, 1),
        batch_tokens=settings.batch_tokens,
        block_tokens=settings.block_tokens,
        bos=settings.bos,
    )
    prepare = None
    if settings.mask_id is not None:
        prepare = masking(sample, settings.stacks[0], settings.mask_id)
    feed = KeptFeed(found, points, sample, TRAIN, model.dtype)
    with torch.autocast(model.device.type, enabled=False):
        Pass(model, plan, [feed], activation=settings.activation, prepare=prepare).run()
    return found


def _settings(shortcuts: Shortcuts) -> FitSettings:
    """Return the settings of a fit, but that rows are kept."""
    question: dict[str, Any] = shortcuts.manifest["question"]
    numerics: dict[str, Any] = shortcuts.manifest["numerics"]
    if "seed" not in question:
        raise PyengineError("these maps were not fitted here, so that their rows are not known")
    drawn = ("tokens", "seed", "n_train", "n_validation", "skip_first", "special")
    return FitSettings(
        pairs=TO_LAST,
        sub_modules=False,
        stacks=tuple(question["points"]),
        draw=Draw(**{name: question[name] for name in drawn}),
        solver=ROWS,
        **{name: question[name] for name in ("mask_id", "ridge", "rcond", "bos")},
        **{name: numerics[name] for name in ("activation", "batch_tokens", "block_tokens")},
    )

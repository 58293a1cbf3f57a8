"""Key-value agreement: does a value write what follows the inputs that its key fires on?

Geva et al. 2021, §4: value i of layer l is read as the distribution softmax(v_i^l · E) over the
vocabulary, and its top token compared with the next token of key i's trigger examples.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine.analyses.agreement_result import Agreement
from pyengine.analyses.agreement_summary import by_layer, by_probability
from pyengine.analyses.agreement_table import agreement_table
from pyengine.analyses.targets import KINDS, Targets
from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.checks import check_choice, check_count
from pyengine.errors import PyengineError
from pyengine.manifest import describe
from pyengine.models import Model
from pyengine.precision import precision
from pyengine.readout import Readout, readout
from pyengine.run import RunFolder, open_run
from pyengine.token_text import TokenText

ROWS = 4096  # values per call of the projection

Arrays = dict[str, np.ndarray]


def key_value_agreement(
    model: Model,
    triggers: "TriggerExamples | Targets",
    *,
    target: str | None = None,
    final_norm: str = "off",
    head: str = "full",
    ranks: int | None = None,
    top: int = 10,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Compare what every value writes with what follows its key's trigger examples.

    Args:
        model: the model of the run.
        triggers: a run's examples (its maxima; any layers and dims), or `Targets`.
        target: `next`, the token after the one that the key fired on (the paper's definition), or
            `input`, the token that it fired on (what the authors' script compares with). None:
            `next` in causal stacks, `input` in bidirectional ones, which see both sides.
        final_norm: `on` puts the value through the stack's final norm before the head; the
            authors' two later tools disagree on it. BERT: through the layer's own output norm.
        head: `full`, the model's output head, or `embedding`, the bare output embedding.
        ranks: compare with that many of each key's examples, best first; None takes all.
        top: how many of a value's best tokens to keep.
        seed: of the shuffled baseline: in every layer, each value is also compared with the first
            target of another key, the next one in a random circle of the layer's keys
            (NumPy's default generator, seeded with (seed, layer)).
        out: a run directory; complete, it is opened instead. None keeps the result in memory.
        on_progress: called with (values done, values in all).

    Returns:
        One row per value, and summaries. Ranks are exact with respect to the logits as computed
        (float32; float64 for a float64 model); equal logits: the lower token id first.

    Raises:
        PyengineError: for settings out of range, targets of another model or tokenizer (with what
            differs), a run of minima, or a head that the model lacks.
    """
    targets = triggers if isinstance(triggers, Targets) else Targets.of(triggers)
    _check(model, targets, target, final_norm, ranks, top, seed)
    targets.check_fits(model)
    targets = targets if ranks is None else targets.first(ranks)
    kinds = [target or _own_kind(model, layer) for layer in targets.layers]
    readouts = [
        readout(model, model.layers[layer], final_norm=final_norm == "on", head=head)
        for layer in targets.layers
    ]
    question = {"target": kinds, "final_norm": final_norm, "head": head, "k": targets.k}
    question |= {"top": top, "seed": seed, **_keys(model, targets)}
    manifest = describe("agreement", question, {"rows": ROWS}, model, _corpus(targets))

    def compute(manifest: dict[str, Any]) -> Agreement:
        with precision(model.dtype):
            arrays = _project_all(model, targets, kinds, readouts, top, seed, on_progress)
        text = TokenText.of(model.tokenizer)
        table = agreement_table(arrays, targets, text)
        layers = by_layer(table, dict(zip(targets.layers, kinds, strict=True)), model.vocab_size)
        return Agreement(table, layers, by_probability(table, model.vocab_size), text, manifest)

    if out is None:
        return compute(manifest)
    run = RunFolder.begin(Path(out), manifest)
    if run.complete:
        return open_run(run.path)
    with run.lock(0, 1):
        found = compute(run.manifest)
        found.write(run)
    return found


def shuffled(first: np.ndarray, seed: int, layer: int) -> np.ndarray:
    """Give every value the first target of another key of its layer.

    Args:
        first: int64 [n], each value's own first target, -1 for none.
        seed, layer: of the generator.

    Returns:
        int64 [n]: the target of the next key in a random circle of the keys that have one; -1
        where a value has no target itself, or is the only one that has.
    """
    circle = np.flatnonzero(first >= 0)
    np.random.default_rng((seed, layer)).shuffle(circle)
    other = np.full(len(first), -1, np.int64)
    if len(circle) > 1:
        other[circle] = first[np.roll(circle, -1)]
    return other


def _project_all(
    model: Model,
    targets: Targets,
    kinds: Sequence[str],
    readouts: Sequence[Readout],
    top: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> Arrays:
    dims = None if len(targets.dims) == model.d_ff else torch.tensor(targets.dims)
    parts: list[Arrays] = []
    done = 0
    for row, layer in enumerate(targets.layers):
        values = model.values(layer)
        values = values if dims is None else values[dims.to(values.device)]
        wanted: Tensor = getattr(targets, kinds[row])[row]
        other = torch.from_numpy(shuffled(wanted[:, 0].numpy(), seed, layer))
        wanted = torch.cat([wanted, other[:, None]], 1)
        for first in range(0, len(values), ROWS):
            rows = slice(first, first + ROWS)
            parts.append(_project(readouts[row], values[rows], wanted[rows], top))
            done += len(parts[-1]["entropy"])
            if on_progress is not None:
                on_progress(done, targets.n_values)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _project(read: Readout, values: Tensor, wanted: Tensor, top: int) -> Arrays:
    found = read.project(values, targets=wanted.to(values.device), m=top)
    tensors = {
        "top_tokens": found.top_ids,
        "top_probs": found.top_probs.float(),
        "entropy": found.entropy.float(),
        "targets": wanted[:, :-1],
        "ranks": found.target_ranks[:, :-1],
        "probs": found.target_probs[:, :-1].float(),
        "shuffled_target": wanted[:, -1],
        "shuffled_rank": found.target_ranks[:, -1],
    }
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _own_kind(model: Model, layer: int) -> str:
    return "next" if model.layers[layer].stack.causal else "input"


def _check(
    model: Model,
    targets: Targets,
    target: str | None,
    final_norm: str,
    ranks: int | None,
    top: int,
    seed: int,
) -> None:
    if target is not None:
        check_choice("target", target, KINDS)
    check_choice("final_norm", final_norm, ("off", "on"))
    check_count("ranks", ranks)
    check_count("top", top)
    if ranks is not None and ranks > targets.k:
        raise PyengineError(f"ranks={ranks}, but there are only {targets.k} examples per key")
    if top > model.vocab_size:
        raise PyengineError(f"top={top}, but {model.name} has only {model.vocab_size} tokens")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise PyengineError(f"seed must be a whole number from 0 on, not {seed!r}")


def _keys(model: Model, targets: Targets) -> dict[str, Any]:
    every = len(targets.dims) == model.d_ff
    return {"layers": list(targets.layers), "dims": None if every else list(targets.dims)}


def _corpus(targets: Targets) -> dict[str, Any]:
    """Describe what was read instead of a corpus: the targets, and the run they come from."""
    read: dict[str, Any] = {"source": targets.source, "targets_sha256": targets.sha256}
    if targets.manifest is not None:
        read |= {**targets.manifest["corpus"], "triggers": targets.manifest["question"]}
    return read

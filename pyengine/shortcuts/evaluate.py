"""What maps between layers are worth: r², and what mapped states say beside the model itself."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from pyengine.checks import check_choice, check_count
from pyengine.errors import PyengineError
from pyengine.manifest import describe
from pyengine.models import Model
from pyengine.precision import precision
from pyengine.run import RunFolder, open_run
from pyengine.shortcuts.evaluation import Evaluation
from pyengine.shortcuts.lens import Maps, ends_in_head, has_readout, maps_of, split_rank
from pyengine.shortcuts.linear_map import AFFINE, IDENTITY, KINDS, MAT, LinearMap
from pyengine.shortcuts.r2_positions import position_table
from pyengine.shortcuts.r2_table import r2_table
from pyengine.shortcuts.scored_content import maps_sha256, rows_sha256
from pyengine.shortcuts.scored_stack import Advance, ScoreSettings, score_stack
from pyengine.shortcuts.scores import ROWS

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts

MAPPINGS = (IDENTITY, MAT, AFFINE)


def evaluate(
    shortcuts: "Shortcuts",
    model: Model,
    *,
    mappings: Sequence[str] = MAPPINGS,
    ranks: Sequence[int] = (),
    extra: Mapping[str, Mapping[int, LinearMap]] | None = None,
    early_exit: bool = True,
    substitution: bool = False,
    transfer: Sequence[str] = (),
    bootstrap: int = 1000,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Advance | None = None,
) -> Evaluation:
    """Score maps on the validation rows of their fit, all on the same ones.

    What is read through an output head is left out where there is none: r² only.

    Args:
        shortcuts: the fitted maps.
        model: the one that they were fitted on.
        mappings: `id` (the logit lens), `mat`, `affine`, or one of these at a rank (`mat@16`).
        ranks: also `mat` and `affine`, where asked for, at these ranks.
        extra: more maps to the last layer, by name and layer: a tuned lens.
        early_exit: also where every λ would stop; see `pyengine.shortcuts.early_exit`.
        substitution: also put the maps of sub-modules in their places, of every kind among
            `mappings`, one mode per kind of sub-module (`mat_attn`, `mat_ffn`, …); a fit with
            sub-modules is needed. Each mode runs L (L + 1) / 2 blocks.
        transfer: mappings whose maps are also scored on the states of all other layers.
        bootstrap: resamples of sentences for intervals; 0: none.
        seed: of the resamples.
        out: a run directory; complete, it is opened instead. None keeps the result in memory.
        on_progress: called with (stage, done, total).

    Raises:
        PyengineError: if the maps belong to another model, for a setting out of range, or an `out`
            that holds the scores of other maps or validation rows.
    """
    shortcuts.check(model)
    names = _names(mappings, ranks, extra or {})
    _check(names, transfer, bootstrap, seed)
    extra = extra or {}
    maps = {
        stack: {
            name: maps_of(shortcuts, extra.get(name, name), stack)
            for name in names
            # Maps that are given are those of the stack that ends in the head.
            if name not in extra or ends_in_head(model, stack)
        }
        for stack in shortcuts.stacks
    }
    kinds = tuple(kind for kind in KINDS if substitution and kind in names)
    settings = ScoreSettings(early_exit, kinds, tuple(transfer), bootstrap, seed)
    question = {
        "mappings": names,
        "maps_sha256": {
            stack: {name: maps_sha256(shortcuts, stack, name, of) for name, of in of_stack.items()}
            for stack, of_stack in maps.items()
        },
        "rows_sha256": {stack: rows_sha256(shortcuts, stack) for stack in maps},
        **settings.describe(),
        "fit": shortcuts.manifest["question"],
    }
    corpus = shortcuts.manifest["corpus"]
    manifest = describe("shortcut_scores", question, {"rows": ROWS}, model, corpus)

    def compute(manifest: dict[str, Any]) -> Evaluation:
        # Nobody's autocast may round what is compared.
        with precision("float32"), torch.autocast(model.device.type, enabled=False):
            tables = _tables(shortcuts, model, maps, settings, on_progress)
        return Evaluation(shortcuts.text, manifest, **tables)

    if out is None:
        return compute(manifest)
    run = RunFolder.begin(Path(out), manifest)
    if run.complete:
        found: Evaluation = open_run(run.path)
        return found
    with run.lock(0, 1):
        found = compute(run.manifest)
        found.write(run)
    return found


def _tables(
    shortcuts: "Shortcuts",
    model: Model,
    maps: Mapping[str, Mapping[str, Maps]],
    settings: ScoreSettings,
    on_progress: Advance | None,
) -> dict[str, pa.Table]:
    advance, device = on_progress or _silent, model.device
    r2, positions, found = [], [], {}
    for stack, of_stack in maps.items():
        told = partial(advance, "r²")
        r2.append(r2_table(shortcuts, stack, of_stack, device, told))
        if shortcuts.manifest["question"].get("tokens") == "all":
            positions.append(position_table(shortcuts, stack, of_stack, device))
        if has_readout(model, stack):
            found = score_stack(shortcuts, model, stack, of_stack, settings, advance)
    if positions:
        found["positions"] = pa.concat_tables(positions)
    return {"r2": pa.concat_tables(r2), **found}


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _names(
    mappings: Sequence[str], ranks: Sequence[int], extra: Mapping[str, Mapping[int, LinearMap]]
) -> list[str]:
    """List the mappings' names, each once, in the order asked for."""
    for name in mappings:
        split_rank(name)
    for rank in ranks:
        check_count("rank", rank)
    if taken := [name for name in extra if name.partition("@")[0] in MAPPINGS]:
        raise PyengineError(f"the name {taken[0]!r} is taken; call your maps something else")
    cut = [f"{name}@{rank}" for name in mappings if name in KINDS for rank in ranks]
    return list(dict.fromkeys([*mappings, *cut, *extra]))


def _check(names: Sequence[str], transfer: Sequence[str], bootstrap: int, seed: int) -> None:
    if not names:
        raise PyengineError("there is nothing to evaluate; name a mapping, such as mat")
    for name in transfer:
        check_choice("transfer mapping", name, names)
    check_count("bootstrap", bootstrap or None)
    if seed < 0:
        raise PyengineError(f"seed must be at least 0, got {seed}")

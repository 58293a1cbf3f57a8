"""Every table of one stack whose states lead to the output head."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from pyengine.models import Model
from pyengine.shortcuts.bootstrap import Bootstrap
from pyengine.shortcuts.early_exit import IDENTITY_LAMBDAS, LAMBDAS, Ledger
from pyengine.shortcuts.frontier import RULES, Frontier
from pyengine.shortcuts.lens import Maps, final_readout
from pyengine.shortcuts.linear_map import IDENTITY, LinearMap
from pyengine.shortcuts.score_tables import calibration_table, layer_table, sample_table
from pyengine.shortcuts.scores import Final, Scores, score_maps
from pyengine.shortcuts.substitution import substituted_states
from pyengine.shortcuts.transfer import transfer_table
from pyengine.shortcuts.validation import Validation
from pyengine.shortcuts.validation_batches import first_column

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts

# Called with (stage, done, total).
Advance = Callable[[str, int, int], None]
Tables = dict[str, pa.Table]


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored beside the maps; see `pyengine.shortcuts.evaluate.evaluate`.

    Attributes:
        substitution: of which kinds sub-modules' maps take their places.
    """

    early_exit: bool
    substitution: tuple[str, ...]
    transfer: tuple[str, ...]
    bootstrap: int
    seed: int

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of them."""
        lists = {name: list(getattr(self, name)) for name in ("substitution", "transfer")}
        return asdict(self) | lists


@torch.no_grad()
def score_stack(
    shortcuts: "Shortcuts",
    model: Model,
    stack: str,
    maps: Mapping[str, Maps],
    settings: ScoreSettings,
    advance: Advance,
) -> Tables:
    """Score maps to the last layer of a stack.

    Args:
        shortcuts: the fitted maps.
        model: theirs.
        stack: whose states lead to the output head.
        maps: by name.
        settings: what else.
        advance: called with (stage, done, total).

    Returns:
        Tables by name, see `Evaluation`.
    """
    read, held = final_readout(model, stack), shortcuts.validation(stack)
    states = held.states[:, : shortcuts.n_layers(stack) + 1]
    final = Final.of(read, states[:, -1].to(model.device))
    scores = score_maps(read, final, states, maps, partial(advance, "scores"))
    found: Tables = {}
    if settings.early_exit:
        first = first_column(model, shortcuts, stack)
        found |= _exit_tables(stack, held, scores, first, settings)
    for kind in settings.substitution:
        scores |= _substituted(shortcuts, model, stack, kind, final, advance)
    found |= _score_tables(stack, held, scores, settings)
    if settings.transfer:
        told = partial(advance, "transfer")
        tables = [
            transfer_table(read, final, states, name, maps[name], told)
            for name in settings.transfer
        ]
        found["transfer"] = _named(pa.concat_tables(tables), stack=stack)
    return found


def _substituted(
    shortcuts: "Shortcuts", model: Model, stack: str, kind: str, final: Final, advance: Advance
) -> dict[str, Scores]:
    """Score what the model ends in where sub-modules' maps take their places, by mode."""
    read, total = final_readout(model, stack), len(shortcuts.validation(stack))
    ends = substituted_states(
        model,
        shortcuts,
        stack=stack,
        kind=kind,
        on_progress=lambda done: advance(f"{kind} sub-modules", done, total),
    )
    found: dict[str, Scores] = {}
    for mode, states in ends.items():
        found |= score_maps(read, final, states, {mode: lambda _: LinearMap()})
    return found


def _score_tables(
    stack: str, held: Validation, scores: Mapping[str, Scores], settings: ScoreSettings
) -> Tables:
    units, positions = held.units.numpy(), held.positions.numpy().astype("int32")
    bootstrap = Bootstrap(units, settings.bootstrap, settings.seed)
    return {
        "samples": pa.concat_tables(
            sample_table(stack, name, units, positions, found) for name, found in scores.items()
        ),
        "layers": pa.concat_tables(
            layer_table(stack, name, found, bootstrap) for name, found in scores.items()
        ),
        "calibration": pa.concat_tables(
            calibration_table(stack, name, found) for name, found in scores.items()
        ),
    }


def _exit_tables(
    stack: str,
    held: Validation,
    scores: Mapping[str, Scores],
    first: int,
    settings: ScoreSettings,
) -> Tables:
    parts: dict[str, list[pa.Table]] = {"exits": [], "exit_samples": [], "savings": []}
    for name, found in scores.items():
        ledger = Ledger.of_scores(found, held.units, held.positions, first)
        lambdas = IDENTITY_LAMBDAS if name == IDENTITY else LAMBDAS
        frontier = Frontier(ledger, lambdas, bootstrap=settings.bootstrap, seed=settings.seed)
        tables = (frontier.table(), frontier.samples(), _savings(frontier))
        for part, table in zip(parts.values(), tables, strict=True):
            part.append(_named(table, stack=stack, mapping=name))
    return {name: pa.concat_tables(part) for name, part in parts.items()}


def _savings(frontier: Frontier) -> pa.Table:
    found = [asdict(frontier.saving(rule)) for rule in RULES]
    columns = {name: [saving[name] for saving in found] for name in found[0]}
    table = {name: pa.array(np.array(each), from_pandas=True) for name, each in columns.items()}
    return pa.table({"rule": RULES} | table)


def _named(table: pa.Table, **names: str) -> pa.Table:
    """Put columns of one text each before a table's own."""
    for at, (name, text) in enumerate(names.items()):
        table = table.add_column(at, name, pa.array([text] * table.num_rows, pa.string()))
    return table

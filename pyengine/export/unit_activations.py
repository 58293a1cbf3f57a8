"""The activation of every token of the units that a run of triggers refers to, recomputed.

A run holds the activation of a key where it fired; other tools want it at every token of the unit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pyengine import ops
from pyengine.analyses.targets import check_same_model
from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.capture import Capture, Maxima
from pyengine.competition import EVERY_TOKEN, Reading
from pyengine.errors import PyengineError
from pyengine.loading import load
from pyengine.model_batches import model_batches
from pyengine.models import Model
from pyengine.precision import precision
from pyengine.sites import Site, coefficient_site
from pyengine.store import Report, TokenStore

LAYERS_BYTES = 1 << 30  # what the layers of one pass may keep

# How far a recomputed score may lie from the run's, as a part of the layer's largest: other batches
# move the last bits. What this is to find, another input, is as large as the scores themselves.
TOLERANCE = {"float32": 1e-3, "tf32": 2e-2, "float16": 2e-2, "bfloat16": 0.1}


class Kept(NamedTuple):
    """What one layer of a run keeps: int64 [n] each, scores float32."""

    columns: np.ndarray
    units: np.ndarray
    positions: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, triggers: TriggerExamples, row: int) -> "Kept":
        units, positions = triggers.units[row].numpy(), triggers.positions[row].numpy()
        found = np.nonzero(units >= 0)
        scores = triggers.scores[row].numpy()[found]
        return cls(found[0], units[found], positions[found].astype(np.int64), scores)


@dataclass(frozen=True)
class LayerActivations:
    """One layer: for every key and unit that it keeps, an activation per content token.

    Attributes:
        row: index of the layer in the run.
        units: int64 [n_units], the corpus units of the run's table, ascending.
        pairs: int64 [n], column of the key · n_units + row of the unit, ascending.
        starts: int64 [n + 1], where each pair's activations start in `values`.
        values: float32 [total].
    """

    row: int
    units: np.ndarray
    pairs: np.ndarray
    starts: np.ndarray
    values: np.ndarray

    def of(self, column: int, unit: int) -> np.ndarray:
        """Return the activations of the run's key `column` over a unit of the corpus."""
        pair = self._pair(column, unit)
        return self.values[self.starts[pair] : self.starts[pair + 1]]

    def places(self, kept: Kept) -> np.ndarray:
        """Return where in `values` the activations that were kept stand."""
        return self.starts[self._pair(kept.columns, kept.units)] + kept.positions

    def _pair(self, column: Any, unit: Any) -> Any:
        rows = np.searchsorted(self.units, unit)
        return np.searchsorted(self.pairs, column * len(self.units) + rows)


def unit_activations(triggers: TriggerExamples, model: Any) -> Iterator[LayerActivations]:
    """Recompute the activations of a run's keys over the units that each of them keeps.

    The units are run whole, as the run did (its value, activation mode, BOS, batch budget), all
    layers in one pass if they fit in 1 GiB. Where a key was kept, its activation is the run's own
    score to the last bit; elsewhere the last bits depend on what shares a batch.

    Args:
        triggers: one direction of a run.
        model: what `pyengine.load` takes; the model of the run.

    Yields:
        The run's layers, in order.

    Raises:
        PyengineError: without a model, or if it is not the run's.
    """
    if model is None:
        raise PyengineError(
            "a run of triggers holds activations at the firing positions only; "
            "give --model (model=) to recompute those of the other tokens"
        )
    loaded = load(model)
    check_same_model(triggers.manifest, loaded)
    layers = (_empty(triggers, row) for row in range(len(triggers.layers)))
    for group in _groups(layers):
        _fill(triggers, loaded, group)
        yield from group


def _empty(triggers: TriggerExamples, row: int) -> LayerActivations:
    table, kept = triggers.table, Kept.of(triggers, row)
    rows = np.searchsorted(table.units, kept.units)
    pairs = np.unique(kept.columns * len(table.units) + rows)
    lengths = np.diff(table.offsets)[_rows(pairs, table.units)]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return LayerActivations(row, table.units, pairs, starts, np.zeros(starts[-1], np.float32))


def _rows(pairs: np.ndarray, units: np.ndarray) -> np.ndarray:
    return pairs % max(len(units), 1)


def _groups(layers: Iterator[LayerActivations]) -> Iterator[list[LayerActivations]]:
    group: list[LayerActivations] = []
    for layer in layers:
        if group and sum(part.values.nbytes for part in [*group, layer]) > LAYERS_BYTES:
            yield group
            group = []
        group.append(layer)
    yield group


def _fill(triggers: TriggerExamples, model: Model, group: list[LayerActivations]) -> None:
    """Fill in the values of some layers.

    A run does not say whether its corpus was text or token ids, which get no special tokens: its
    scores do.
    """
    special = len(model.special_tokens(triggers.manifest["question"]["bos"]))
    longest = int(np.diff(triggers.table.offsets).max(initial=0))
    ways = [True] if longest + special <= model.max_positions else []
    worst = ""
    for adds_special in [*ways, False] if special else [False]:
        _run(triggers, model, group, adds_special)
        worst = next(filter(None, (_disagreement(triggers, layer) for layer in group)), "")
        if not worst:
            break
    if worst:
        raise PyengineError(f"{model.name} does not give the activations of the run: {worst}")
    for layer in group:
        kept = Kept.of(triggers, layer.row)
        layer.values[layer.places(kept)] = kept.scores


def _run(
    triggers: TriggerExamples, model: Model, group: list[LayerActivations], adds_special: bool
) -> None:
    question, numerics = (triggers.manifest[name] for name in ("question", "numerics"))
    table, wanted = triggers.table, [triggers.layers[layer.row] for layer in group]
    tokens = table.tokens.astype(np.uint32)
    report = Report(units=len(table.units), tokens=len(tokens))
    store = TokenStore.in_memory(tokens, table.offsets, report, adds_special)
    sites = [coefficient_site(model, layer, question["value"]) for layer in wanted]
    takers = {site: _taker(layer, triggers.dims) for site, layer in zip(sites, group, strict=True)}

    def sink(site: Site, captured: ops.Captured, reading: Reading) -> None:
        rows = reading.rows(EVERY_TOKEN)
        takers[site](rows.batch.units, captured.values, rows.ids)

    maxima = dict.fromkeys(takers, Maxima(None))
    capture = Capture(model, maxima, sink, activation=numerics["activation"])
    decoder = model.family.encoder_decoder and any(model.layers[i].stack.causal for i in wanted)
    with precision(model.dtype):
        for batch, shifted in model_batches(
            model,
            store,
            (0, store.n_units),
            batch_tokens=numerics["batch_tokens"],
            bos=question["bos"],
            decoder=decoder,
        ):
            capture.run(batch, shifted)


def _taker(
    layer: LayerActivations, dims: tuple[int, ...]
) -> Callable[[np.ndarray, torch.Tensor, torch.Tensor], None]:
    """Return what puts the activations of a batch where they belong."""
    row_of, lengths = _rows(layer.pairs, layer.units), np.diff(layer.starts)
    order = np.argsort(row_of, kind="stable")
    by_row = row_of[order]
    dim_of = np.array(dims, np.int64)[layer.pairs // max(len(layer.units), 1)]

    def take(units: np.ndarray, values: torch.Tensor, ids: torch.Tensor) -> None:
        low, high = (np.searchsorted(by_row, units, side) for side in ("left", "right"))
        pairs = order[_ranges(low, high - low)]
        row = torch.from_numpy(np.repeat(np.arange(len(units)), high - low)).to(values.device)
        dim = torch.from_numpy(dim_of[pairs]).to(values.device)
        competing = values[row, :, dim][ids[row] >= 0]
        layer.values[_ranges(layer.starts[pairs], lengths[pairs])] = competing.float().cpu().numpy()

    return take


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate start, start + 1, …, start + length - 1 of every pair."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _disagreement(triggers: TriggerExamples, layer: LayerActivations) -> str:
    """Say where the recomputed scores are not the run's; empty if they are."""
    kept = Kept.of(triggers, layer.row)
    ours, theirs = layer.values[layer.places(kept)], kept.scores
    scale = np.abs(theirs[np.isfinite(theirs)]).max(initial=1e-3)
    allowed = TOLERANCE[triggers.manifest["numerics"]["dtype"]] * scale
    close = np.isclose(ours, theirs, rtol=0, atol=allowed)
    if close.all():
        return ""
    at = int(np.argmin(close))
    where = f"layer {triggers.layers[layer.row]}, dim {triggers.dims[kept.columns[at]]}"
    return f"{where}: {ours[at]:g} where the run holds {theirs[at]:g}"

"""What other tools call an activation record: a unit's tokens, each with its activation."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.errors import PyengineError
from pyengine.export.unit_activations import LayerActivations, unit_activations


class Record(NamedTuple):
    """One kept example.

    Attributes:
        unit: index of the unit in the corpus.
        position: content token that the key was kept for.
        tokens: the unit's content tokens as they stand in a sentence.
        activations: of the key, one per token; float32, exact in float64.
    """

    unit: int
    position: int
    tokens: list[str]
    activations: list[float]


class Neuron(NamedTuple):
    """A key with its kept examples, best first."""

    layer: int
    dim: int
    records: list[Record]


def neurons_by_layer(
    triggers: TriggerExamples, model: Any, format: str
) -> Iterator[tuple[int, Iterator[Neuron]]]:
    """Yield (layer, its neurons) for the largest activations of a run.

    A run of both directions gives its maxima; its minima have no place in such records.

    Args:
        triggers: the run.
        model: the run's; see `pyengine.export.unit_activations`.
        format: what is being written, for messages.

    Raises:
        PyengineError: for a run of minima, without the run's model, or for an activation that JSON
            cannot hold (infinity, NaN).
    """
    sides = triggers.sides()
    if "max" not in sides:
        raise PyengineError(f"{format} is for the largest activations; this run holds minima")
    side = sides["max"]
    word = cache(side.text.token)
    for activations in unit_activations(side, model):
        yield side.layers[activations.row], _neurons(side, activations, word)


def _neurons(side: TriggerExamples, activations: LayerActivations, word: Any) -> Iterator[Neuron]:
    row, layer = activations.row, side.layers[activations.row]
    for column, dim in enumerate(side.dims):
        units, positions = side.units[row, column].tolist(), side.positions[row, column].tolist()
        records = []
        for unit, position in zip(units, positions, strict=True):
            if unit < 0:
                break
            values = activations.of(column, unit)
            if not np.isfinite(values).all():
                raise PyengineError(
                    f"an activation of layer {layer}, dim {dim} in unit {unit} is "
                    f"{values[~np.isfinite(values)][0]}, which JSON cannot hold"
                )
            tokens = [word(token) for token in side.unit_tokens(unit)]
            records.append(Record(unit, position, tokens, values.tolist()))
        yield Neuron(layer, dim, records)

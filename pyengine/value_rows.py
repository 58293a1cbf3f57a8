"""Value vectors changed in place, and given their bits back in whatever order the changes leave."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.neurons import Neuron

# From a value vector [d_model] to what replaces it.
Change = Callable[[Tensor], Tensor]


@dataclass
class _ChangedRow:
    """The vector as it was, and the changes at work on it, oldest first."""

    original: Tensor
    changes: list[Change] = field(default_factory=list)

    def write(self, row: Tensor) -> None:
        value = self.original
        for change in self.changes:
            value = change(value).to(value.dtype)
        row.copy_(value)


# What is changed in a model's body; weakly: an abandoned change keeps no model alive.
_CHANGED: WeakKeyDictionary[nn.Module, dict[Neuron, _ChangedRow]] = WeakKeyDictionary()


def distinct_rows(model: Model, neurons: Iterable[Neuron]) -> list[Neuron]:
    """Name each value vector once; where layers share a weight, by the first of them."""
    first = _first_holders(model)
    return list(dict.fromkeys(Neuron(first[layer], dim) for layer, dim in neurons))


@torch.no_grad()
def begin_change(model: Model, place: Neuron, change: Change) -> None:
    """Change one value vector of the model itself, on top of the changes at work on it."""
    rows = _CHANGED.setdefault(model.body, {})
    now = _row(model, model.body, place)
    changed = rows.setdefault(place, _ChangedRow(now.clone()))
    changed.changes.append(change)
    changed.write(now)


@torch.no_grad()
def end_change(model: Model, place: Neuron, change: Change) -> None:
    """Take one change back: the others are made again, from the vector as it was.

    Nothing happens where the change has not begun.
    """
    rows = _CHANGED.get(model.body, {})
    changed = rows.get(place)
    if changed is None or change not in changed.changes:
        return
    changed.changes.remove(change)
    changed.write(_row(model, model.body, place))
    if not changed.changes:
        del rows[place]


@torch.no_grad()
def change_copy(model: Model, body: nn.Module, places: Iterable[Neuron], change: Change) -> None:
    """Change value vectors of a structural copy, in weights of its own.

    Args:
        model: that it is a copy of; its weights stay as they are.
        body: the copy.
        places: of `distinct_rows`.
        change: what to do to each.
    """
    places = [*places]
    touched = {place.layer for place in places}
    own: dict[int, nn.Parameter] = {}
    for layer, first in zip(model.layers, _first_holders(model), strict=True):
        if first in touched:
            module = _value(body, layer)
            if first not in own:
                own[first] = nn.Parameter(module.weight.detach().clone(), requires_grad=False)
            module.weight = own[first]
    for place in places:
        row = _row(model, body, place)
        row.copy_(change(row))


def _first_holders(model: Model) -> list[int]:
    """Return for each layer the first that has the same value matrix."""
    first: dict[int, int] = {}
    return [
        first.setdefault(_value(model.body, layer).weight.data_ptr(), layer.index)
        for layer in model.layers
    ]


def _row(model: Model, body: nn.Module, place: Neuron) -> Tensor:
    """Return a value vector of the model or of a copy, [d_model]; shares memory."""
    module = _value(body, model.layers[place.layer])
    weight: Tensor = module.weight.detach()
    return weight[place.dim] if type(module).__name__ == "Conv1D" else weight[:, place.dim]


def _value(body: nn.Module, layer: Layer) -> Any:
    return layer.module(body, layer.stack.value)

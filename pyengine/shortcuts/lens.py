"""How a state of any layer is read: head(norm(M h + b)), one slot for all maps to the last."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.readout import Readout, readout
from pyengine.shortcuts.linear_map import IDENTITY, KINDS, MAT, LinearMap
from pyengine.shortcuts.output_head import output_head
from pyengine.vocab_project import Projection

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts

# From a layer to its map to the last one.
Maps = Callable[[int], LinearMap]
# How states are read: `id` (the logit lens), `mat`, `affine`, either of these cut to a rank
# (`mat@16`), or maps of one's own by layer (a tuned lens).
Kind = str | Mapping[int, LinearMap]


class Lens:
    """Reads states of one stack as distributions over the vocabulary.

    The last layer's state is read as the model itself does, whatever the maps.

    Args:
        model: the model that the maps were fitted on.
        shortcuts: the fitted maps.
        kind: how states are read: a mapping's name, or maps by layer; see `Kind`.
        stack: whose states; None: the only fitted one, or the decoder.

    Raises:
        PyengineError: if the maps belong to another model, or the stack has no output head (T5's
            encoder).
    """

    def __init__(
        self,
        model: Model,
        shortcuts: "Shortcuts",
        kind: Kind = MAT,
        *,
        stack: str | None = None,
    ) -> None:
        shortcuts.check(model)
        self.stack = stack or own_stack(shortcuts)
        self.read = final_readout(model, self.stack)
        own, device = maps_of(shortcuts, kind, self.stack), model.device
        self.maps: Maps = cache(lambda layer: own(layer).to(device))
        self._device = device

    def logits(self, h: Tensor, layer: int) -> Tensor:
        """Return the logits of [..., d_model] states x_layer, [..., vocab_size], float32."""
        with self._exactly():
            logits = self.read.logits(self.maps(layer)(h.to(self._device)).flatten(0, -2))
        return logits.unflatten(0, h.shape[:-1])

    def project(
        self, h: Tensor, layer: int, *, targets: Tensor | None = None, m: int = 1
    ) -> Projection:
        """Read [R, d_model] states without keeping logits; see `pyengine.ops.vocab_project`."""
        with self._exactly():
            return self.read.project(self.maps(layer)(h.to(self._device)), targets=targets, m=m)

    def _exactly(self) -> torch.autocast:
        """Nobody's autocast may round what is read."""
        return torch.autocast(self._device.type, enabled=False)


def own_stack(shortcuts: "Shortcuts") -> str:
    """Name the stack that is meant if none is named: the only one, or the decoder."""
    return shortcuts.stacks[-1]  # an encoder comes before its decoder


def ends_in_head(model: Model, stack: str) -> bool:
    """Say whether a stack leads to the output head, if there is one; T5's encoder does not."""
    return stack == model.layers[-1].stack.name


def has_readout(model: Model, stack: str) -> bool:
    """Say whether the states of a stack can be read: it leads to a head that is not random."""
    return ends_in_head(model, stack) and output_head(model) is not None


def final_readout(model: Model, stack: str) -> Readout:
    """Return how the model itself reads a stack's last state: its norm, exactly once, its head.

    BERT's x_L has been normalised by the last block.

    Raises:
        PyengineError: if the stack does not lead to the head, or the model has none.
    """
    if output_head(model) is None:
        raise PyengineError(f"{model.name} has no output head, so that its maps have r² alone")
    if not ends_in_head(model, stack):
        raise PyengineError(
            f"the {stack} of {model.name} has no output head; read its decoder, or r² alone"
        )
    last = model.layers[-1]
    return readout(model, last, final_norm=last.stack.final_norm is not None)


def maps_of(shortcuts: "Shortcuts", kind: Kind, stack: str) -> Maps:
    """Return the maps to the last layer of one kind, by the layer that they start from.

    Raises:
        PyengineError: for an unknown kind, or a rank that is none; on the call for a layer that
            has no map.
    """
    last = shortcuts.n_layers(stack)
    if not isinstance(kind, str):
        return lambda layer: LinearMap() if layer == last else _own(kind, layer)
    name, rank = split_rank(kind)
    if rank is None:
        return lambda layer: shortcuts.map(layer, kind=name, stack=stack)

    return lambda layer: (
        LinearMap() if layer == last else shortcuts.truncated(layer, rank, name, stack=stack)
    )


def split_rank(kind: str) -> tuple[str, int | None]:
    """Split `mat@16` into the kind and its rank.

    Raises:
        PyengineError: for an unknown kind, or a rank that is none.
    """
    name, at, rank = kind.partition("@")
    check_choice("mapping", name, (*KINDS,) if at else (IDENTITY, *KINDS))
    if not at:
        return name, None
    if not rank.isdigit() or int(rank) < 1:
        raise PyengineError(f"{kind!r} does not name a rank; write {name}@16")
    return name, int(rank)


def _own(maps: Mapping[int, LinearMap], layer: int) -> LinearMap:
    if layer not in maps:
        known = ", ".join(map(str, sorted(maps)))
        raise PyengineError(f"there is no map of layer {layer}; there are those of: {known}")
    return maps[layer]

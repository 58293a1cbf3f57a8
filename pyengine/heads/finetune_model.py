"""A model's body with a classifier on a pooled vector of its inside: what fine-tuning trains."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyengine.errors import PyengineError
from pyengine.extraction.sites import site_width
from pyengine.heads.places import BLOCK, HEAD, Place, places_of
from pyengine.heads.pooling import FIRST, MEAN
from pyengine.models import Model
from pyengine.taps import StopForwardError, attach


@dataclass(frozen=True)
class Representation:
    """Which vectors of a model stand for a sentence.

    Attributes:
        name: `last`, `best` or `heads`.
        parts: (layer, head), side by side in this order; head -1: the output of the layer's block.
    """

    name: str
    parts: tuple[tuple[int, int], ...]

    @property
    def location(self) -> str:
        return BLOCK if self.parts[0][1] < 0 else HEAD

    @property
    def layer(self) -> int:
        """The layer whose block's output it is; -1 of heads."""
        return -1 if self.location == HEAD else self.parts[0][0]


class PooledClassifier(nn.Module):
    """Body → pooled vector → Linear(P, P), tanh, dropout → Linear(P, n_outputs).

    The body's pass ends at the last layer that is read; T5's is its encoder's. One output is a
    regression, by mean squares; several are classes, by cross-entropy.

    Attributes:
        body: a deep copy of the model's body.
        width: P.
    """

    def __init__(
        self,
        model: Model,
        representation: Representation,
        pooling: str,
        n_outputs: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.places = _places(model, representation)
        self.parts, self.pooling, self.n_outputs = representation.parts, pooling, n_outputs
        self.whole_stack = not model.family.encoder_decoder
        self.body: Any = copy.deepcopy(model.body).requires_grad_(True)
        self.causal = model.family.causal
        self.width = sum(part_width(model, place) for place, _ in self._reads())
        self.dense = nn.Linear(self.width, self.width)
        self.out = nn.Linear(self.width, n_outputs)
        self.dropout = nn.Dropout(dropout)
        self.to(model.device)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return `logits` [B, n_outputs] and, where labels are given, `loss`.

        Args:
            input_ids: int64 [B, T], padded on the right.
            attention_mask: [B, T], 0 = padding.
            token_type_ids: [B, T], of models that have them.
            labels: [B], int64 classes, or float scores.
        """
        vector = self.pooled(input_ids, attention_mask, token_type_ids)
        logits = self.out(self.dropout(torch.tanh(self.dense(vector))))
        if labels is None:
            return {"logits": logits}
        if self.n_outputs == 1:
            return {"loss": functional.mse_loss(logits[:, 0], labels), "logits": logits}
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    def pooled(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Return the vectors of sentences, [B, P]; gradients flow through them."""
        seen: dict[str, Tensor] = {}
        take = partial(self._take, seen, attention_mask)
        handles = [attach(self.body, p.site, partial(take, p.name)) for p in self.places.values()]
        try:
            self._run(input_ids, attention_mask, token_type_ids)
        except StopForwardError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat([_part(seen[place.name], head) for place, head in self._reads()], dim=-1)

    def _take(self, seen: dict[str, Tensor], mask: Tensor, name: str, value: Tensor) -> None:
        seen[name] = pooled_of(value, mask, self.pooling)
        if len(seen) == len(self.places):
            raise StopForwardError

    def _run(self, input_ids: Tensor, mask: Tensor, token_types: Tensor | None) -> None:
        more: dict[str, Any] = {} if token_types is None else {"token_type_ids": token_types}
        if self.causal:
            more["use_cache"] = False
        stack = self.body if self.whole_stack else self.body.encoder
        stack(input_ids=input_ids, attention_mask=mask, **more)

    def _reads(self) -> list[tuple[Place, int]]:
        return [(self.places[layer], head) for layer, head in self.parts]


def pooled_of(value: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool [B, T, ...] over positions, to [B, ...]: the first, the last real one, or their mean.

    With `pad` the last real one is the token that was put there to be read.
    """
    if pooling == FIRST:
        return value[:, 0]
    if pooling == MEAN:
        weights = (mask / mask.sum(1, keepdim=True)).to(value.dtype)
        return torch.einsum("bt,bt...->b...", weights, value)
    return value[torch.arange(len(value), device=value.device), mask.sum(1) - 1]


def n_read_layers(model: Model) -> int:
    """Return how many layers fine-tuning may read: all, of an encoder-decoder the encoder's."""
    return sum(layer.stack == model.family.stacks[0] for layer in model.layers)


def representation_of(model: Model, name: str, parts: Sequence[tuple[int, int]]) -> Representation:
    """Check that parts exist and may be read.

    Raises:
        PyengineError: for none, or for one that the model lacks or fine-tuning does not run.
    """
    found = Representation(name, tuple((int(layer), int(head)) for layer, head in parts))
    if not found.parts:
        raise PyengineError("there are no heads to read: give at least one (layer, head)")
    if len({head < 0 for _, head in found.parts}) > 1:
        raise PyengineError("heads and whole layers cannot stand side by side")
    _places(model, found)
    return found


def _places(model: Model, representation: Representation) -> dict[int, Place]:
    """Return the places of a representation by layer, in the order of the pass."""
    n, wanted = n_read_layers(model), {layer for layer, _ in representation.parts}
    if outside := sorted(layer for layer in wanted if not 0 <= layer < n):
        what = "the encoder of " if model.family.encoder_decoder else ""
        raise PyengineError(
            f"fine-tuning reads the layers 0 to {n - 1} of {what}{model.name}, not {outside[0]}"
        )
    found = {
        place.layer: place
        for place in places_of(model, (representation.location,))
        if place.layer in wanted
    }
    for layer, head in representation.parts:
        if head >= found[layer].n_parts:
            raise PyengineError(
                f"layer {layer} of {model.name} has {found[layer].n_parts} heads, not head {head}"
            )
    return found


def part_width(model: Model, place: Place) -> int:
    """Return the width of one part of a place."""
    return site_width(model, place.site) // place.n_parts


def _part(value: Tensor, head: int) -> Tensor:
    return value if head < 0 else value[:, head]

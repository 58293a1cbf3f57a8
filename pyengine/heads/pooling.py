"""How the vectors of a sentence's tokens become one: chosen per stack, computed on the device."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from pyengine.batches import Batch
from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.forward import to_device
from pyengine.models import Model

FIRST, LAST, MEAN, PAD = "first", "last", "mean", "pad"
POOLINGS = (FIRST, LAST, MEAN, PAD)
AUTO = "auto"

# One for all stacks, or by the stack's name.
Pooling = str | Mapping[str, str]

# What is put after a sentence, to be read there: transformer_anatomy's GPT and GPT-2 gather one
# past the last token, a slot of padding with id 0.
APPENDED = {PAD: (0,)}


def pooling_of(model: Model, pooling: Pooling) -> dict[str, str]:
    """Return the pooling of each of a model's stacks.

    Args:
        model: the model.
        pooling: `first`, `last`, `mean` or `pad`, for all stacks or by the stack's name; `auto` is
            `last` for a causal stack, `first` for BERT-like models whose tokenizer puts a special
            token first, and else `mean` (T5's encoder).

    Raises:
        PyengineError: for an unknown one, or `pad` of a model that is not causal.
    """
    stacks = {layer.stack.name: layer.stack for layer in model.layers}
    given = dict.fromkeys(stacks, pooling) if isinstance(pooling, str) else dict(pooling)
    for name in given:
        check_choice("stack", name, [*stacks])
    found = {}
    for name, stack in stacks.items():
        asked = given.get(name, AUTO)
        check_choice("pooling", asked, (AUTO, *POOLINGS))
        if asked == PAD and not model.family.causal:
            raise PyengineError(
                f"pooling 'pad' is for causal models, which {model.name} is not; use first or mean"
            )
        found[name] = _auto(model, stack.causal) if asked == AUTO else asked
    return found


def _auto(model: Model, causal: bool) -> str:
    if causal:
        return LAST
    return FIRST if not model.family.encoder_decoder and model.special_tokens().prefix else MEAN


class Pooled:
    """Pools the values of one stack in a batch, whose rows are padded on the right.

    Args:
        batch: what the stack reads; with `pad` the token to be read there is among it.
        pooling: one of `POOLINGS`.
        device: where the values are.
    """

    def __init__(self, batch: Batch, pooling: str, device: torch.device) -> None:
        lengths = batch.attention_mask.sum(1)
        self._rows = to_device(np.arange(len(lengths)), device)
        self._last = to_device(lengths - 1, device)
        self._lengths = to_device(lengths, device)
        padded = not batch.attention_mask.all()
        self._hidden = to_device(batch.attention_mask == 0, device) if padded else None
        self._pool = _POOLS[pooling]

    def __call__(self, values: Tensor) -> Tensor:
        """Pool [B, T, n] into [B, n]; a mean is taken in float32 at least."""
        return self._pool(self, values)

    def first(self, values: Tensor) -> Tensor:
        return values[:, 0].clone()  # a view would keep all of them in memory

    def last(self, values: Tensor) -> Tensor:
        return values[self._rows, self._last]

    def mean(self, values: Tensor) -> Tensor:
        # What stands at padding may be infinite in half precision: it is replaced, not weighed.
        if self._hidden is not None:
            values = values.masked_fill(self._hidden[..., None], 0)
        wide = torch.promote_types(values.dtype, torch.float32)
        return values.sum(1, dtype=wide) / self._lengths[:, None]


_POOLS: dict[str, Callable[[Pooled, Tensor], Tensor]] = {
    FIRST: Pooled.first,
    LAST: Pooled.last,
    MEAN: Pooled.mean,
    PAD: Pooled.last,
}

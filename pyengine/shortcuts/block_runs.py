"""Running the blocks of a stack again from any block on, without what comes before.

A block is called just as it was in a whole pass (masks, position bias, what cross-attention reads),
but for the residual stream: so nothing is known here of how a family makes these.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyengine.batches import Batch
from pyengine.forward import Forward
from pyengine.models import Model


class BlockCall(NamedTuple):
    """How a block was called.

    Attributes:
        stream: [B, T, d_model], the residual stream that it read.
        args: what else it was given by position.
        kwargs: by name.
    """

    stream: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class BlockRuns:
    """Runs batches through a structural copy of a model and sees how each block is called.

    Args:
        model: the model.
        stack: whose blocks.
    """

    def __init__(self, model: Model, stack: str) -> None:
        self._forward = Forward(model)
        self._calls: list[BlockCall] = []
        for block in blocks_of(model, self._forward.body, stack):
            block.register_forward_pre_hook(self._see, with_kwargs=True)

    @torch.inference_mode()
    def calls(self, batch: Batch, decoder: Batch | None = None) -> list[BlockCall]:
        """Run one batch and return the call of every block, in order.

        Args:
            batch: as the model's first stack reads it.
            decoder: as its decoder does, where there is one to be run.
        """
        try:
            self._forward.run(batch, decoder)
            return self._calls
        finally:
            self._calls = []

    def _see(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream, *rest = args
        self._calls.append(BlockCall(stream, tuple(rest), kwargs))


@torch.inference_mode()
def run_from(first: int, blocks: Sequence[nn.Module], calls: Sequence[BlockCall]) -> Tensor:
    """Run blocks from one on, from the stream that it read; return what the last one leaves.

    Args:
        first: 0 to the number of blocks - 1.
        blocks: all of a stack; these may be others than those that were called.
        calls: of all of them.
    """
    stream = calls[first].stream
    for block, call in zip(blocks[first:], calls[first:], strict=True):
        stream = stream_of(block(stream, *call.args, **call.kwargs))
    return stream


def blocks_of(model: Model, body: nn.Module, stack: str) -> list[nn.Module]:
    """Return the blocks of one stack of a body, in order."""
    layers = [layer for layer in model.layers if layer.stack.name == stack]
    return [layer.module(body, f"{layer.stack.blocks}.{{}}") for layer in layers]


def stream_of(out: Any) -> Tensor:
    """Return the residual stream among what a block returns."""
    stream: Tensor = out[0] if isinstance(out, tuple | list) else out
    return stream

"""What follows a layer in a bidirectional stack: every position, of every row.

Two things are saved: in the block after the changed layer, queries, keys and values are those of
the clean pass everywhere but at the changed position; and the last block is computed at that
position only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyengine.gradients.attention import PositionBias
from pyengine.gradients.blocks import Block
from pyengine.gradients.clean_pass import CleanStack
from pyengine.gradients.tail import Join, TailRun


class DenseTail:
    """The blocks of a bidirectional stack over P clozes of T positions.

    Args:
        blocks: of the stack.
        clean: its clean pass.
        bias: of its attention.
        whole: all positions of the last block's output are wanted (T5's decoder reads them).
    """

    def __init__(
        self, blocks: Sequence[Block], clean: CleanStack, bias: PositionBias, *, whole: bool
    ) -> None:
        self._blocks = blocks
        self._clean = clean
        self._whole = whole
        self._bias = bias(clean.valid.shape[1])  # [1, H, T, T]
        self._padded = not bool(clean.valid.all())

    def run(self, joins: Sequence[Join]) -> TailRun:
        """Run rows from their layers on; see `Tail.run`."""
        items, z = joins[0]
        old = items[:0]  # rows that differ from the clean pass everywhere
        full = z.new_zeros(0, self._clean.valid.shape[1], z.shape[-1])  # their streams
        fresh = self._blocks[0].leave(z)  # streams of the others, at the answer
        passed = []
        for index in range(1, len(self._blocks)):
            only_answer = index == len(self._blocks) - 1 and not self._whole
            block = self._blocks[index]
            z = self._step(index, old, full, items[len(old) :], fresh, only_answer)
            new_items, new_z = joins[index]
            passed.append(z)
            full, fresh, old = block.leave(z), block.leave(new_z), items
            items = torch.cat([items, new_items])
        return TailRun(items, self._end(items[len(old) :], full, fresh), passed)

    def cost(self, block: int) -> int:
        """Return positions × layers that a row joining after a block computes."""
        return max(1, len(self._blocks) - 1 - block) * self._clean.valid.shape[1]

    def _step(
        self,
        index: int,
        old: Tensor,
        full: Tensor,
        new: Tensor,
        fresh: Tensor,
        only_answer: bool,
    ) -> Tensor:
        """Run one block over all rows; [R, T, d_model], or [R, 1, d_model] at the answer only."""
        block, seen = self._blocks[index], self._clean.layers[index]
        attention = block.attentions[0]
        clean = [part[new] for part in seen.projected[0]]
        changed = attention.project(block.before_attention(fresh))
        assert seen.stream is not None
        if only_answer:
            full_at = self._at_answer(full, old)
            query = attention.query(block.before_attention(full_at))
            key, value = attention.key_value(block.before_attention(full))
            query = torch.cat([query, changed[0][:, None]])
            stream = torch.cat([full_at, fresh[:, None]])
        else:
            query, key, value = attention.project(block.before_attention(full))
            query = torch.cat([query, self._put(clean[0], new, changed[0])])
            stream = torch.cat([full, self._put(seen.stream[new], new, fresh)])
        key = torch.cat([key, self._put(clean[1], new, changed[1])])
        value = torch.cat([value, self._put(clean[2], new, changed[2])])
        mask = self._mask(torch.cat([old, new]), query, only_answer)
        context = attention.attend(query, key, value, mask)
        return block.add_ffn(block.add_attention(stream, context))

    def _end(self, new: Tensor, full: Tensor, fresh: Tensor) -> Tensor:
        if self._whole:
            assert self._clean.end is not None
            return torch.cat([full, self._put(self._clean.end[new], new, fresh)])
        return torch.cat([full[:, 0], fresh])

    def _at_answer(self, x: Tensor, items: Tensor) -> Tensor:
        """Return [R, 1, D] of [R, T, D]."""
        rows = torch.arange(len(x), device=x.device)
        return x[rows, self._clean.positions[items]][:, None]

    def _put(self, base: Tensor, items: Tensor, at_answer: Tensor) -> Tensor:
        """Return the clean [S, T, D] with [S, D] put in at the answer."""
        rows = torch.arange(len(items), device=base.device)
        return base.index_put((rows, self._clean.positions[items]), at_answer)

    def _mask(self, items: Tensor, query: Tensor, only_answer: bool) -> Tensor | None:
        """Return what is added to the scores, broadcast to [R, H, T or 1, T]."""
        mask = self._bias
        if mask is not None and only_answer:
            mask = mask[0].transpose(0, 1)[self._clean.positions[items]][:, :, None]
        if self._padded:
            hidden = ~self._clean.valid[items][:, None, None, :]
            padding = query.new_zeros(hidden.shape).masked_fill(hidden, -torch.inf)
            mask = padding if mask is None else mask + padding
        return mask

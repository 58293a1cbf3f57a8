"""What follows a layer in a causal stack, at the last position only.

Earlier positions do not see it, so their keys and values are those of the clean pass, shared by all
rows of a cloze. Rows are ragged over the clozes; only attention, a small part of the work, pads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyengine.gradients.attention import PositionBias
from pyengine.gradients.blocks import Block
from pyengine.gradients.clean_pass import CleanStack
from pyengine.gradients.tail import Join, TailRun


class CausalTail:
    """The blocks of a causal stack over the prefixes of P clozes.

    Args:
        blocks: of the stack.
        clean: its clean pass.
        bias: of its self-attention.
        source: the clean pass of the stack that cross-attention reads (T5), else None.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        clean: CleanStack,
        bias: PositionBias,
        source: CleanStack | None,
    ) -> None:
        self._blocks = blocks
        self._clean = clean
        length = clean.valid.shape[1]
        here = clean.positions[:, None]
        self._distance = here - torch.arange(length, device=here.device)  # [P, T], above 0: before
        table = bias(length)  # [1, H, T, T]
        self._bias = self._own_bias = None
        if table is not None:
            self._bias = table[0].transpose(0, 1)[clean.positions]  # [P, H, T]
            self._own_bias = self._bias.gather(2, here[:, None].expand(-1, table.shape[1], 1))
        self._unseen = None if source is None else ~source.valid

    def run(self, joins: Sequence[Join]) -> TailRun:
        """Run rows from their layers on; see `Tail.run`."""
        items, z = joins[0]
        passed = []
        stream = self._blocks[0].leave(z)
        for index in range(1, len(self._blocks)):
            block = self._blocks[index]
            new_items, new_z = joins[index]
            z = self._step(index, block, stream, items) if len(items) else new_z[:0]
            passed.append(z)
            stream = block.leave(torch.cat([z, new_z]))
            items = torch.cat([items, new_items])
        return TailRun(items, stream, passed)

    def cost(self, block: int) -> int:
        """Return positions × layers that a row joining after a block computes."""
        return max(1, len(self._blocks) - 1 - block)

    def _step(self, index: int, block: Block, stream: Tensor, items: Tensor) -> Tensor:
        seen, slots = self._clean.layers[index], _Slots(items, len(self._distance))
        context = self._self_attention(index, block, stream, slots)
        stream = block.add_attention(stream, context)
        if self._unseen is not None:
            attention = block.attentions[1]
            query = slots.pad(attention.query(block.before_attention(stream, 1)))
            _, key, value = seen.projected[1]
            mask = self._unseen[:, None, None, :]
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -torch.inf)
            context = attention.attend(query, key, value, mask)
            stream = block.add_attention(stream, slots.unpad(context), 1)
        return block.add_ffn(stream)

    def _self_attention(self, index: int, block: Block, stream: Tensor, slots: "_Slots") -> Tensor:
        """Attend to the clean prefix and to oneself; [R, H * W]."""
        attention = block.attentions[0]
        _, key0, value0 = (attention.heads(x) for x in self._clean.layers[index].projected[0])
        projected = attention.project(block.before_attention(stream))
        query, key, value = (attention.heads(slots.pad(x)) for x in projected)  # [P, H, N, W]
        query = query * attention.scale
        own = (query * key).sum(-1, keepdim=True)
        before = query @ key0.transpose(-1, -2)
        if self._bias is not None and self._own_bias is not None:
            before = before + self._bias[:, :, None].to(before.dtype)
            own = own + self._own_bias[:, :, None].to(own.dtype)
        hidden = self._distance <= 0
        if attention.window is not None:
            hidden = hidden | (self._distance >= attention.window)
        before = before.masked_fill(hidden[:, None, None], -torch.inf)
        weights = torch.cat([before, own], -1).softmax(-1)
        context = weights[..., :-1] @ value0 + weights[..., -1:] * value
        return slots.unpad(context.transpose(1, 2).flatten(2))


class _Slots:
    """Where rows of a ragged [R, D] stand in a padded [P, N, D]: by cloze, in order."""

    def __init__(self, items: Tensor, n_items: int) -> None:
        order = items.argsort(stable=True)
        counts = items.bincount(minlength=n_items)
        starts = counts.cumsum(0) - counts
        slot = torch.empty_like(items)
        slot[order] = torch.arange(len(items), device=items.device) - starts[items[order]]
        self._at = (items, slot)
        self._shape = (n_items, int(counts.max()))

    def pad(self, x: Tensor) -> Tensor:
        return x.new_zeros(*self._shape, x.shape[-1]).index_put(self._at, x)

    def unpad(self, x: Tensor) -> Tensor:
        return x[self._at]

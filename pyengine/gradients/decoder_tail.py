"""What follows a layer in T5's encoder: the rest of it, then the whole decoder, for every row."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyengine.gradients.attention import PositionBias
from pyengine.gradients.blocks import Block
from pyengine.gradients.clean_pass import CleanStack
from pyengine.gradients.dense_tail import DenseTail
from pyengine.gradients.tail import Join, TailRun


class EncoderTail:
    """The blocks of T5's encoder, its final norm, and the decoder.

    Args:
        encoder: the encoder's blocks, with all their positions.
        norm: the encoder's final norm.
        decoder: the blocks of the decoder.
        clean: the clean passes of both.
        bias: of the decoder's self-attention.
    """

    def __init__(
        self,
        encoder: DenseTail,
        norm: nn.Module,
        decoder: Sequence[Block],
        clean: dict[str, CleanStack],
        bias: PositionBias,
    ) -> None:
        self._encoder = encoder
        self._norm = norm
        self._decoder = DecoderTail(decoder, clean["decoder"], bias, clean["encoder"])

    def run(self, joins: Sequence[Join]) -> TailRun:
        """Run rows from their layers on; the stream returned is the decoder's, at the answer."""
        run = self._encoder.run(joins)
        return run._replace(stream=self._decoder.run(run.items, self._norm(run.stream)))

    def cost(self, block: int) -> int:
        """Return positions × layers that a row joining after a block computes."""
        return self._encoder.cost(block) + self._decoder.cost


class DecoderTail:
    """A decoder over T positions that reads encoded rows.

    Args:
        blocks: of the decoder.
        clean: its clean pass.
        bias: of its self-attention.
        source: the clean pass of the encoder.
    """

    def __init__(
        self, blocks: Sequence[Block], clean: CleanStack, bias: PositionBias, source: CleanStack
    ) -> None:
        self._blocks = blocks
        self._clean = clean
        length = clean.valid.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=clean.valid.device).triu(1)
        table = bias(length)
        assert table is not None
        self._causal = table.masked_fill(later, -torch.inf)  # padding lies after what is read
        self._unseen = ~source.valid
        # Keys and values of the encoder's positions are a part of a block's work.
        self.cost = len(blocks) * (length + source.valid.shape[1])

    def run(self, items: Tensor, encoded: Tensor) -> Tensor:
        """Return the decoder's stream at the answer, [R, d_model].

        Args:
            items: int64 [R], the cloze of each row.
            encoded: [R, source positions, d_model], after the encoder's final norm.
        """
        hidden = self._unseen[items][:, None, None, :]
        unseen = encoded.new_zeros(hidden.shape).masked_fill(hidden, -torch.inf)
        first = self._clean.layers[0].stream
        assert first is not None
        stream = first[items]
        rows = torch.arange(len(items), device=items.device)
        at = self._clean.positions[items]
        for block in self._blocks:
            own, cross = block.attentions
            query, key, value = own.project(block.before_attention(stream))
            mask = self._causal
            if block is self._blocks[-1]:
                query, stream = query[rows, at][:, None], stream[rows, at][:, None]
                mask = mask[0].transpose(0, 1)[at][:, :, None]
            stream = block.add_attention(stream, own.attend(query, key, value, mask))
            key, value = cross.key_value(encoded)
            query = cross.query(block.before_attention(stream, 1))
            stream = block.add_attention(stream, cross.attend(query, key, value, unseen), 1)
            stream = block.leave(block.add_ffn(stream))
        return stream[:, 0]

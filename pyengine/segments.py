"""What a pass reads, in segments: a few batches that are folded in together.

On CUDA a background thread forms the next segments, and copies them to the device, while the device
computes; what is formed, and in which order, does not depend on it.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pyengine.batches import Batch
from pyengine.forward import copied_ahead
from pyengine.prefetch import read_ahead
from pyengine.store import TokenStore

# By device type. CUDA is asked once per segment whether a buffer overflowed; the CPU never waits.
SEGMENT_BATCHES = {"cpu": 1, "cuda": 16}
# Segments that are formed and copied to the device while it computes. On the CPU all cores compute.
SEGMENTS_AHEAD = {"cpu": 0, "cuda": 2}

# What the model's stacks read: the units, and beside them the decoder's input.
Pair = tuple[Batch, Batch | None]


class Cursor(NamedTuple):
    """How far a pass has come: whole blocks, then batches of the next block."""

    blocks: int = 0
    batches: int = 0


@dataclass(frozen=True)
class Plan:
    """What a pass reads, fixed before it starts; the bits of the result depend on nothing else.

    Attributes:
        store: the tokenised corpus.
        boundaries: int64 [n_blocks + 1], unit index where each block starts.
        blocks: the blocks of this shard.
        batch_tokens: tokens per batch, padding included.
        bos: put the BOS token before each unit.
    """

    store: TokenStore
    boundaries: np.ndarray
    blocks: range
    batch_tokens: int
    bos: bool = False

    @property
    def base(self) -> int:
        """The first token of the shard; packed ids count from here."""
        return int(self.store.offsets[self.boundaries[self.blocks.start]])

    @property
    def n_tokens(self) -> int:
        """Content tokens of the shard."""
        return int(self.store.offsets[self.boundaries[self.blocks.stop]]) - self.base


class Segment(NamedTuple):
    """Batches of a block that are folded in together, and the cursor after them."""

    block: int
    batches: list[Pair]
    after: Cursor


def segments(
    plan: Plan, start: Cursor, form: Callable[[int], Iterable[Pair]], device: torch.device
) -> Generator[Segment]:
    """Yield the segments of a plan from `start` on; close the generator to end its thread.

    Args:
        plan: the blocks.
        start: where a segment begins.
        form: returns the batches of a block.
        device: what computes them.
    """
    formed = _formed(plan, start, form, SEGMENT_BATCHES[device.type])
    if not (ahead := SEGMENTS_AHEAD[device.type]):
        return formed
    # Copies made on the stream that computes are in order with it.
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    return read_ahead(_copied(formed, device, stream), ahead)


def _formed(
    plan: Plan, start: Cursor, form: Callable[[int], Iterable[Pair]], size: int
) -> Generator[Segment]:
    for done in range(start.blocks, len(plan.blocks)):
        skip = start.batches if done == start.blocks else 0
        block = plan.blocks[done]
        batches = list(form(block))
        for first in range(skip, len(batches), size):
            last = min(first + size, len(batches))
            after = Cursor(done + 1) if last == len(batches) else Cursor(done, last)
            yield Segment(block, batches[first:last], after)


def _copied(
    formed: Generator[Segment], device: torch.device, stream: torch.cuda.Stream | None
) -> Generator[Segment]:
    """Copy what segments hold to the device; all of it is done by the thread that iterates."""
    with torch.cuda.stream(stream):
        for segment in formed:
            copied = [
                (copied_ahead(batch, device), decoder and copied_ahead(decoder, device))
                for batch, decoder in segment.batches
            ]
            yield segment._replace(batches=copied)

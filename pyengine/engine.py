"""One pass over a token store: batches through a model, activations into a reducer.

The pass is cut into *segments* (a few batches). A segment is either wholly in the reducer or not
at all, so a pass can be saved after any of them, and resumed there with the same bits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pyengine import ops
from pyengine.batches import Batch
from pyengine.capture import Capture
from pyengine.model_batches import model_batches
from pyengine.models import Model
from pyengine.out_of_memory import batch_pieces, next_split
from pyengine.precision import precision
from pyengine.store import TokenStore

# CUDA is asked once per segment whether a buffer overflowed; the CPU never waits for anything.
SEGMENT_BATCHES = {"cpu": 1, "cuda": 16}


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
        starts: int32 [n_units], first position that competes (`per="prefix"`), or None.
    """

    store: TokenStore
    boundaries: np.ndarray
    blocks: range
    batch_tokens: int
    bos: bool = False
    starts: np.ndarray | None = None

    @property
    def base(self) -> int:
        """The first token of the shard; packed ids count from here."""
        return int(self.store.offsets[self.boundaries[self.blocks.start]])

    @property
    def n_tokens(self) -> int:
        """Content tokens of the shard."""
        return int(self.store.offsets[self.boundaries[self.blocks.stop]]) - self.base


@dataclass
class Progress:
    """Where a pass stands; saved with every checkpoint.

    Attributes:
        cursor: the next segment starts here.
        n_tokens: content tokens done.
        n_computed: tokens computed, padding and special tokens included.
        n_nan: int64 [n_layers], NaN activations among competing positions, never kept.
        exact: False once an out-of-memory retry has changed the shape of a batch.
    """

    cursor: Cursor = field(default_factory=Cursor)
    n_tokens: int = 0
    n_computed: int = 0
    n_nan: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    exact: bool = True


class Reducer(Protocol):
    """What the engine asks of a reducer."""

    def observe(
        self, layer: int, captured: ops.Captured, rows: ops.Rows, seen: int, careful: bool
    ) -> None:
        """Fold one layer of one batch in; `seen` counts the units folded before this batch."""

    def flush(self) -> None:
        """Finish what is pending, without waiting for the device; called after every batch."""

    def take_overflow(self) -> bool:
        """Whether something was lost since the last call; True asks for the segment again."""

    def snapshot(self) -> Any:
        """Return a copy of the state, for `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, dropping what is pending."""


class Segment(NamedTuple):
    """Batches that are folded in together, and the cursor after them."""

    batches: list[tuple[Batch, Batch | None]]
    after: Cursor


@dataclass
class Pass:
    """A pass over a plan's blocks, resumable at any segment.

    Args:
        model: the model.
        plan: what to read.
        layers: indices of the layers to capture.
        reducer: where their activations go.
        value, activation, signs: as `pyengine.capture.Capture` takes them.
        progress: where to start; updated in place.
    """

    model: Model
    plan: Plan
    layers: list[int]
    reducer: Reducer
    value: str = "post"
    activation: str = "fused"
    signs: tuple[int, ...] = (1,)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        if not len(self.progress.n_nan):
            self.progress.n_nan = torch.zeros(self.model.n_layers, dtype=torch.int64)
        self._seen = 0
        self._careful = False
        self._pending_nan: list[tuple[int, Tensor]] = []
        self._capture = Capture(
            self.model,
            self.layers,
            self._observe,
            value=self.value,
            activation=self.activation,
            signs=self.signs,
        )

    def run(self, after_segment: Callable[[Progress], None] | None = None) -> Progress:
        """Run to the end, calling `after_segment` whenever the pass could be saved.

        Raises:
            PyengineError: if a single unit does not fit into the memory.
        """
        with precision(self.model.dtype):
            for segment in self._segments():
                self._fold(segment)
                self.progress.cursor = segment.after
                if after_segment is not None:
                    after_segment(self.progress)
        return self.progress

    def _segments(self) -> Iterator[Segment]:
        start = self.progress.cursor
        size = SEGMENT_BATCHES[self.model.device.type]
        for done in range(start.blocks, len(self.plan.blocks)):
            skip = start.batches if done == start.blocks else 0
            batches = list(self._batches(self.plan.blocks[done]))
            for first in range(skip, len(batches), size):
                last = min(first + size, len(batches))
                after = Cursor(done + 1) if last == len(batches) else Cursor(done, last)
                yield Segment(batches[first:last], after)

    def _batches(self, block: int) -> Iterator[tuple[Batch, Batch | None]]:
        plan, model = self.plan, self.model
        needs_decoder = model.family.encoder_decoder and any(
            model.layers[index].stack.causal for index in self.layers
        )
        return model_batches(
            model,
            plan.store,
            (int(plan.boundaries[block]), int(plan.boundaries[block + 1])),
            batch_tokens=plan.batch_tokens,
            bos=plan.bos,
            decoder=needs_decoder,
            base=plan.base,
            starts=plan.starts,
        )

    def _fold(self, segment: Segment) -> None:
        """Fold a whole segment in; again from the snapshot after overflow or lack of memory."""
        snapshot, seen, split = self.reducer.snapshot(), self._seen, 1
        self._careful = False
        while True:
            try:
                for pair in segment.batches:
                    for piece in batch_pieces(*pair, split):
                        self._capture.run(*piece)
                        self.reducer.flush()
                        self._seen += len(piece[0].units)
                overflowed = self.reducer.take_overflow()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                longest = max(len(batch.units) for batch, _ in segment.batches)
                split = next_split(error, split, longest)
                self.progress.exact = False
                overflowed = True
                torch.cuda.empty_cache()
            if not overflowed:
                break
            self._careful = True
            self.reducer.restore(snapshot)
            self._seen = seen
            self._pending_nan.clear()
        self._count(segment)

    def _count(self, segment: Segment) -> None:
        if self._pending_nan:  # one copy from the device, not one per layer and batch
            layers, counts = zip(*self._pending_nan, strict=True)
            self.progress.n_nan.index_add_(0, torch.tensor(layers), torch.cat(counts).cpu())
        self._pending_nan.clear()
        for batch, _ in segment.batches:
            self.progress.n_tokens += batch.n_tokens
            self.progress.n_computed += batch.n_computed

    def _observe(self, layer: int, captured: ops.Captured, rows: ops.Rows) -> None:
        self._pending_nan.append((layer, captured.n_nan))
        self.reducer.observe(layer, captured, rows, self._seen, self._careful)

"""One pass over a token store: batches through a model, activations into reducers.

The pass is cut into *segments* (a few batches). A segment is either wholly in the reducers or not
at all, so a pass can be saved after any of them, and resumed there with the same bits.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyengine import ops
from pyengine.batches import Batch
from pyengine.capture import Capture, Maxima
from pyengine.competition import Reading
from pyengine.extraction.feeds import Feed
from pyengine.model_batches import model_batches
from pyengine.models import Model
from pyengine.out_of_memory import batch_pieces, next_split
from pyengine.precision import precision
from pyengine.segments import Cursor, Pair, Plan, Segment, segments
from pyengine.sites import Site

# By device type. Larger batches need larger blocks to stay below 1.10 computed tokens per real one.
BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
BLOCK_TOKENS = {"cpu": 131_072, "cuda": 524_288}


@dataclass(frozen=True)
class Progress:
    """Where a pass stands; saved with every checkpoint.

    Attributes:
        n_nan: int64 [n_sites], NaN activations among competing positions, never ranked.
        cursor: the next segment starts here.
        n_tokens: content tokens done.
        n_computed: tokens computed, padding and special tokens included.
        exact: False once an out-of-memory retry has changed the shape of a batch.
    """

    n_nan: Tensor
    cursor: Cursor = field(default_factory=Cursor)
    n_tokens: int = 0
    n_computed: int = 0
    exact: bool = True


def sites_of_feeds(feeds: Sequence[Feed]) -> list[Site]:
    """List the sites that are read, each once; `Progress.n_nan` counts in this order."""
    return list(dict.fromkeys(site for feed in feeds for site in feed.sites))


class Pass:
    """A pass over a plan's blocks, resumable at any segment.

    Args:
        model: the model.
        plan: what to read.
        feeds: where the activations go.
        activation: as `pyengine.capture.Capture` takes it.
        prepare: changes what the first stack reads of a batch; None: nothing.

    Attributes:
        plan: what to read; between two runs it may give way to one that begins with its blocks.
        progress: where the pass stands; set it to start elsewhere.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        feeds: Sequence[Feed],
        *,
        activation: str = "fused",
        prepare: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self._model, self.plan, self._feeds = model, plan, feeds
        self._prepare = prepare
        self._readers = {
            site: [feed for feed in feeds if site in feed.sites] for site in sites_of_feeds(feeds)
        }
        self._maxima = {site: _maxima(readers) for site, readers in self._readers.items()}
        self.progress = Progress(torch.zeros(len(self._readers), dtype=torch.int64))
        self._seen = 0
        self._careful = False
        self._nan: list[tuple[Site, Tensor]] = []
        self._capture = Capture(model, self._maxima, self._observe, activation=activation)

    def run(self, after_segment: Callable[[Progress], None] | None = None) -> Progress:
        """Run to the end, calling `after_segment` whenever the pass could be saved.

        Whatever stops it, the reducers then hold what `progress` says and no more.

        Raises:
            PyengineError: if a single unit does not fit into the memory.
        """
        with precision(self._model.dtype), closing(self._segments()) as found:
            for segment in found:
                self._run_segment(segment)
                if after_segment is not None:
                    after_segment(self.progress)
        return self.progress

    def _segments(self) -> Generator[Segment]:
        return segments(self.plan, self.progress.cursor, self._batches, self._model.device)

    def _batches(self, block: int) -> Iterator[Pair]:
        plan, model = self.plan, self._model
        pairs = model_batches(
            model,
            plan.store,
            (int(plan.boundaries[block]), int(plan.boundaries[block + 1])),
            batch_tokens=plan.batch_tokens,
            bos=plan.bos,
            decoder=model.family.encoder_decoder
            and any(site.stack == "decoder" for site in self._readers),
            base=plan.base,
        )
        if (prepare := self._prepare) is None:
            return pairs
        return ((prepare(batch), decoder) for batch, decoder in pairs)

    def _run_segment(self, segment: Segment) -> None:
        before, seen = self.progress, self._seen
        snapshots = [feed.snapshot() for feed in self._feeds]
        try:
            exact = self._fold(segment, snapshots)
            # One assignment, so that an interrupt comes either before the segment or after it.
            self.progress = self._after(segment, exact)
        except BaseException:
            if self.progress is before:
                self._go_back(snapshots, seen)
            raise

    def _fold(self, segment: Segment, snapshots: list[Any]) -> bool:
        """Fold a segment in, again after overflow or lack of memory; return whether it is exact."""
        seen, split, self._careful = self._seen, 1, False
        while True:
            try:
                self._fold_once(segment, split)
                if not any([feed.take_overflow() for feed in self._feeds]):  # ask them all
                    return split == 1
            except (torch.OutOfMemoryError, RuntimeError) as error:
                longest = max(len(batch.units) for batch, _ in segment.batches)
                split = next_split(error, split, longest)
                torch.cuda.empty_cache()
            self._careful = True
            self._go_back(snapshots, seen)

    def _fold_once(self, segment: Segment, split: int) -> None:
        for feed in self._feeds:
            feed.begin(segment.block)
        for pair in segment.batches:
            for piece in batch_pieces(*pair, split):
                self._capture.run(*piece)
                for feed in self._feeds:
                    feed.flush()
                self._seen += len(piece[0].units)

    def _go_back(self, snapshots: list[Any], seen: int) -> None:
        for feed, snapshot in zip(self._feeds, snapshots, strict=True):
            feed.restore(snapshot)
        self._seen = seen
        self._nan.clear()

    def _after(self, segment: Segment, exact: bool) -> Progress:
        now, batches = self.progress, [batch for batch, _ in segment.batches]
        n_nan = now.n_nan.clone()
        if self._nan:  # one copy from the device, not one per site and batch
            sites, counts = zip(*self._nan, strict=True)
            at = {site: index for index, site in enumerate(self._readers)}
            index = torch.tensor([at[site] for site in sites])
            n_nan.index_add_(0, index, torch.cat(counts).cpu())
        self._nan.clear()
        return Progress(
            n_nan,
            segment.after,
            now.n_tokens + sum(batch.n_tokens for batch in batches),
            now.n_computed + sum(batch.n_computed for batch in batches),
            now.exact and exact,
        )

    def _observe(self, site: Site, captured: ops.Captured, reading: Reading) -> None:
        maxima, seen, careful = self._maxima[site], self._seen, self._careful
        for feed in self._readers[site]:
            feed.observe(site, captured, maxima, reading, seen=seen, careful=careful)
        self._nan.append((site, captured.n_nan))  # a top-k has counted them by now


def _maxima(readers: Sequence[Feed]) -> Maxima:
    """Choose the maxima that are taken with the activation: those of the first that needs any."""
    return next((feed.maxima for feed in readers if feed.maxima is not None), Maxima())

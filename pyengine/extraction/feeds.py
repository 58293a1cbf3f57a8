"""The reducers of a pass, each with the sites that it reads.

Exact reducers keep one state, sums some of ranges of the corpus (`pyengine.extraction.partials`), a
top-k its heaps; `pyengine.extraction.states` says how files hold them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine import ops
from pyengine.capture import Maxima
from pyengine.competition import EVERY_TOKEN, Competition, Reading
from pyengine.errors import PyengineError
from pyengine.extraction.reducers import EngineReducer, copied
from pyengine.extraction.states import Partials, directions, to_arrays, to_tensors
from pyengine.reducers.topk import SIGNS, StreamingTopK
from pyengine.shards import Arrays
from pyengine.sites import Site


class Feed:
    """A reducer with the sites that it reads; as it stands, an exact one.

    Args:
        reducer: on the device of the model.
        sites: what it reads; its keys are theirs, one after another.
        widths: keys of each site.
        competition: which positions it takes in.
    """

    # The block maxima that it needs.
    maxima: Maxima | None = None

    def __init__(
        self,
        reducer: EngineReducer,
        sites: Sequence[Site],
        widths: Sequence[int],
        competition: Competition = EVERY_TOKEN,
    ) -> None:
        self.reducer, self.competition = reducer, competition
        self.sites = tuple(sites)
        self._widths = dict(zip(sites, widths, strict=True))
        before = np.cumsum([0, *widths]).tolist()
        self._first_key = dict(zip(sites, before, strict=False))

    def begin(self, block: int) -> None:
        """Get ready for batches of a block; called again if they are repeated."""

    def observe(
        self,
        site: Site,
        captured: ops.Captured,
        maxima: Maxima,
        reading: Reading,
        *,
        seen: int,
        careful: bool,
    ) -> None:
        """Fold one site of one batch in.

        Args:
            site: one of `sites`.
            captured: its values, and block maxima of them.
            maxima: which maxima those are.
            reading: what the site's stack read.
            seen: units folded before this batch.
            careful: nothing may be lost.

        Raises:
            PyengineError: if the site has not the width that was planned with.
        """
        captured, rows = self._captured(captured, maxima, reading), reading.rows(self.competition)
        if (n := captured.values.shape[2]) != self._widths[site]:
            raise PyengineError(f"{site.name} has {n} keys, not {self._widths[site]}")
        first_key = self._first_key[site]
        self.reducer.fold(captured, rows, first_key=first_key, seen=seen, careful=careful)

    def flush(self) -> None:
        """Finish what is pending, without waiting for the device; called after every batch."""
        self.reducer.flush()

    def take_overflow(self) -> bool:
        """Whether something was lost since the last call; True asks for the segment again."""
        return self.reducer.take_overflow()

    def snapshot(self) -> Any:
        """Return a copy of the state, for `restore`."""
        return self.reducer.snapshot()

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, dropping what is pending."""
        self.reducer.restore(snapshot)

    def state(self, base: int) -> Arrays:
        """Return what a shard file holds; `base` is the offset of the shard's first token."""
        return to_arrays(self.reducer.state_dict(), "state")

    def load(self, arrays: Arrays, base: int) -> None:
        """Continue from what `state` returned."""
        self.reducer.load_state_dict(to_tensors(arrays, "state"))

    def _captured(self, captured: ops.Captured, maxima: Maxima, reading: Reading) -> ops.Captured:
        return captured


class TopKFeed(Feed):
    """A `StreamingTopK`, whose ids are offsets among the shard's tokens.

    Args:
        columns: int64, the columns of each site that it takes in; None: all.
    """

    reducer: StreamingTopK

    def __init__(
        self,
        reducer: StreamingTopK,
        sites: Sequence[Site],
        widths: Sequence[int],
        competition: Competition = EVERY_TOKEN,
        columns: Tensor | None = None,
    ) -> None:
        super().__init__(reducer, sites, widths, competition)
        self.maxima = Maxima(competition, reducer.signs)
        self._columns = columns

    def state(self, base: int) -> Arrays:
        """Return scores and corpus offsets of either direction."""
        arrays = {}
        for direction in directions(self.reducer.sign):
            scores, ids = self.reducer.entries(direction)
            arrays[f"{direction}.scores"] = scores.numpy()
            arrays[f"{direction}.ids"] = torch.where(ids >= 0, ids + base, -1).numpy()
        return arrays

    def load(self, arrays: Arrays, base: int) -> None:
        """Continue from what `state` returned."""
        entries = {}
        for direction in directions(self.reducer.sign):
            scores = torch.from_numpy(arrays[f"{direction}.scores"]) * SIGNS[direction][0]
            ids = torch.from_numpy(arrays[f"{direction}.ids"])
            entries[direction] = torch.where(ids >= 0, ops.pack(scores, ids - base), ops.EMPTY)
        self.reducer.load_state_dict(entries)

    def _captured(self, captured: ops.Captured, maxima: Maxima, reading: Reading) -> ops.Captured:
        """Take the maxima again where they are others', or of other columns."""
        if self._columns is None and maxima == self.maxima:
            return captured
        values = captured.values
        if self._columns is not None:
            values = values.index_select(-1, self._columns)
        rows, signs = reading.rows(self.competition), self.reducer.signs
        return ops.ffn_capture(values, rows, act="identity", signs=signs)


class SummedFeed(Feed):
    """A reducer that adds: states of ranges of the corpus.

    Args:
        fresh: a reducer like it that has seen nothing, to merge states with.
        n_blocks: blocks of the whole corpus.
    """

    def __init__(
        self,
        reducer: EngineReducer,
        sites: Sequence[Site],
        widths: Sequence[int],
        competition: Competition = EVERY_TOKEN,
        *,
        fresh: Any,
        n_blocks: int,
    ) -> None:
        super().__init__(reducer, sites, widths, competition)
        self._fresh = copied(reducer.state_dict())
        self._partials = Partials(fresh, n_blocks)

    def begin(self, block: int) -> None:
        """Begin a new state where a range of the corpus begins."""
        if self._partials.begin(block, self._state):
            self.reducer.load_state_dict(copied(self._fresh))

    def snapshot(self) -> Any:
        """Return a copy of the state, for `restore`."""
        return self._partials.snapshot(), super().snapshot()

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        partials, reducer = snapshot
        self._partials.restore(partials)
        super().restore(reducer)

    def state(self, base: int) -> Arrays:
        """Return the states so far."""
        return self._partials.arrays(self._state)

    def load(self, arrays: Arrays, base: int) -> None:
        """Continue from what `state` returned."""
        opened = self._partials.load(arrays)
        if opened is not None:
            self.reducer.load_state_dict(to_tensors(opened))

    def _state(self) -> Arrays:
        return to_arrays(self.reducer.state_dict())

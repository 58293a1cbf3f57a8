"""From captured states to rows: the tokens that were drawn, with all points side by side."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine import ops
from pyengine.batches import Batch
from pyengine.capture import Maxima
from pyengine.competition import Reading
from pyengine.extraction.feeds import Feed, SummedFeed
from pyengine.extraction.states import to_arrays, to_tensors
from pyengine.shards import ROWS, Arrays
from pyengine.shortcuts.points import Points
from pyengine.shortcuts.sample import TRAIN, Sample
from pyengine.sites import Site


class _Gathered(Feed):
    """Gathers the rows of one stack, and of the units of one role.

    Args:
        reducer: a `RowReducer` on the device of the model.
        points: of the stack.
        sample: what was drawn; the pass reads its store.
        role: `TRAIN` or `VALIDATION`.
        model_dtype: of the model, as `pyengine.load` takes it: only `tf32` may be rounded to TF32.
    """

    reducer: Any

    def __init__(
        self,
        reducer: Any,
        points: Points,
        sample: Sample,
        role: int,
        model_dtype: str,
        **more: Any,
    ) -> None:
        super().__init__(reducer, points.sites, [reducer.d_model] * len(points.sites), **more)
        self.maxima = Maxima(None)  # nothing is ranked
        self._sample, self._role, self._stack = sample, role, points.stack
        self._tf32 = model_dtype == "tf32"
        self._of: Batch | None = None
        self._waiting: set[Site] = set()

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
        """Take the rows of one point of a batch; with the last point they are handed on."""
        batch = reading.rows(None).batch
        if self._of is not batch:
            self._begin(batch, captured.values)
        self._waiting.remove(site)
        first = self._first_key[site]
        width = self._widths[site]
        self._rows[:, first : first + width] = captured.values[self._places]
        if not self._waiting:
            self._hand_on(batch)

    def flush(self) -> None:
        """Do nothing: nothing is ever pending."""

    def take_overflow(self) -> bool:
        """Return False: nothing can overflow."""
        return False

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, dropping the rows of an unfinished batch."""
        self._of = None
        super().restore(snapshot)

    def _begin(self, batch: Batch, values: Tensor) -> None:
        assert not torch.is_autocast_enabled(values.device.type), "states are read outside autocast"
        assert torch.backends.cuda.matmul.allow_tf32 == self._tf32, "TF32 rounds what it should not"
        rows, columns = self._sample.rows(batch, self._stack)
        held = self._sample.roles[batch.units[rows]] == self._role
        self._at = rows[held], columns[held]
        self._places = tuple(torch.from_numpy(index).to(values.device) for index in self._at)
        self._rows = values.new_empty(len(self._at[0]), self.reducer.n_keys)
        self._waiting, self._of = set(self.sites), batch

    def _hand_on(self, batch: Batch) -> None:
        rows, columns = self._at
        at = batch.units[rows]
        places = self._sample.units[at], columns - batch.first, self._offsets(at)
        self.reducer.add(self._rows, *(torch.from_numpy(place) for place in places))
        self._of = None
        del self._rows

    def _offsets(self, units: np.ndarray) -> np.ndarray:
        """Return where the units begin, so that a shard keeps their tokens: for validation."""
        if self._role == TRAIN:
            return np.full(len(units), -1)
        return np.asarray(self._sample.store.offsets)[units].astype(np.int64)


class KeptFeed(_Gathered):
    """Rows that are kept."""

    def state(self, base: int) -> Arrays:
        """Return the rows, sorted, under names that a shard knows."""
        return to_arrays(self.reducer.state_dict(), ROWS)

    def load(self, arrays: Arrays, base: int) -> None:
        """Continue from what `state` returned."""
        self.reducer.load_state_dict(to_tensors(arrays, ROWS))


class SummedRows(_Gathered, SummedFeed):
    """Rows that are summed, range by range of the corpus."""

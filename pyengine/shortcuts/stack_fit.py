"""The fit of one stack: its reducers, how shards of them are merged, and what they come to."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch

from pyengine.extraction.feeds import Feed
from pyengine.extraction.states import merge_partials, summed, to_arrays, to_tensors
from pyengine.reducers.rows import RowBuffer
from pyengine.shards import ROWS as KEPT
from pyengine.shards import Arrays, Merge
from pyengine.shortcuts.points import Points
from pyengine.shortcuts.sample import TRAIN, VALIDATION, Sample
from pyengine.shortcuts.solve import State
from pyengine.shortcuts.solver_choice import ROWS
from pyengine.shortcuts.solvers import n_points, reducer_for
from pyengine.shortcuts.states_feed import KeptFeed, SummedRows
from pyengine.shortcuts.stored_points import StoredPoints


@dataclass(frozen=True)
class StackFit:
    """The fit of one stack, as the manifest describes it.

    Attributes:
        points: by name.
        which: pairs of the residual stream, `last` or `all`.
        d_model: width of a point.
        model_dtype: of the model, as `pyengine.load` takes it.
        solver: `rows`, `gram` or `exact` (TSQR).
    """

    points: StoredPoints
    which: str
    d_model: int
    model_dtype: str
    solver: str

    @classmethod
    def read(cls, manifest: Mapping[str, Any], stack: str) -> "StackFit":
        """Read it from a manifest."""
        question = manifest["question"]
        points = StoredPoints.read(stack, question["points"][stack])
        solver, dtype = question["solver"][stack], manifest["numerics"]["dtype"]
        return cls(points, question["pairs"], question["d_model"], dtype, solver)

    @property
    def dtype(self) -> torch.dtype:
        """Of rows that are kept: float32, of a float64 model float64."""
        return state_dtype(self.model_dtype)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs that get a map."""
        return self.points.pairs(self.which)

    @cached_property
    def steps(self) -> dict[tuple[int, int], str]:
        """What lies between two points, of the pairs that are one sub-module apart."""
        return {
            pair: step
            for block in self.points.taps
            for pair, step in zip(pairwise(block), self.points.steps, strict=True)
        }

    @property
    def sums(self) -> bool:
        """Whether training rows are summed, not kept."""
        return self.solver != ROWS

    def feeds(
        self, points: Points, sample: Sample, n_blocks: int, device: torch.device
    ) -> list[Feed]:
        """Return what takes the training rows in, and what the validation rows."""
        training, validation = self._training(device), self._validation(device)
        drawn = points, sample
        kept = KeptFeed(validation, *drawn, VALIDATION, self.model_dtype)
        if not self.sums:
            return [KeptFeed(training, *drawn, TRAIN, self.model_dtype), kept]
        more = {"fresh": self._training("cpu"), "n_blocks": n_blocks}
        return [SummedRows(training, *drawn, TRAIN, self.model_dtype, **more), kept]

    def merges(self) -> list[Merge]:
        """Return how two shards' states are merged, of either."""
        rows = partial(_merge_rows, self._validation("cpu"))
        return [partial(merge_partials, self._training("cpu")) if self.sums else rows, rows]

    def trained(self, arrays: Arrays) -> State:
        """Return the reducer of all training rows."""
        reducer = self._training("cpu")
        prefix = "state" if self.sums else KEPT
        if self.sums:
            arrays = summed(reducer, arrays)
        reducer.load_state_dict(to_tensors(arrays, prefix))
        found: State = reducer.folded()
        return found

    def kept(self, arrays: Arrays) -> RowBuffer:
        """Return the validation rows."""
        reducer = self._validation("cpu")
        reducer.load_state_dict(to_tensors(arrays, KEPT))
        return reducer

    def _training(self, device: torch.device | str) -> Any:
        return reducer_for(self.solver, self.points, self.which, self.d_model, self.dtype, device)

    def _validation(self, device: torch.device | str) -> RowBuffer:
        return RowBuffer(n_points(self.points), self.d_model, dtype=self.dtype, device=device)


def state_dtype(dtype: str) -> torch.dtype:
    """Return the dtype of kept states of a model of some dtype."""
    return torch.float64 if dtype == "float64" else torch.float32


def _merge_rows(fresh: RowBuffer, before: Arrays | None, arrays: Arrays) -> Arrays:
    """Put the rows of two shards together."""
    if before is None:
        return arrays
    one, other = deepcopy(fresh), deepcopy(fresh)
    one.load_state_dict(to_tensors(before, KEPT))
    other.load_state_dict(to_tensors(arrays, KEPT))
    one.merge(other)
    return to_arrays(one.state_dict(), KEPT)

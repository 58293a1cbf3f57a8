"""Maps that are solved source by source, when they are asked for."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from torch import Tensor

from pyengine.shortcuts.cpu_threads import cpu_threads
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.solve import Source, State, sources
from pyengine.shortcuts.stack_fit import StackFit
from pyengine.shortcuts.stored_maps import FITS, Place, Tensors, map_tensors, stored


class SolvedMaps:
    """The maps of training rows.

    Args:
        stacks: of each, its fit and its training rows.
        ridge, rcond: as in `pyengine.shortcuts.solve`.
        threads: of the CPU: those of the pass, so that the bits do not depend on who solves.
        on_solved: called with (source points done, in all), when all are solved in a row.
    """

    def __init__(
        self,
        stacks: Mapping[str, tuple[StackFit, State]],
        *,
        ridge: float,
        rcond: float,
        threads: int,
        on_solved: Callable[[int, int], None] | None = None,
    ) -> None:
        self._stacks, self._threads, self._on_solved = stacks, threads, on_solved
        self._ridge, self._rcond = ridge, rcond
        self._places = [
            (stack, source)
            for stack, (fit, _) in stacks.items()
            for source in sorted({source for source, _ in fit.pairs})
        ]
        self._tensors: dict[Place, Tensors] = {}
        self._rows: dict[Place, list[dict[str, Any]]] = {}

    def of_source(self, place: Place) -> Tensors:
        """Return the tensors of a source point; they are kept."""
        if place not in self._tensors:
            self._tensors[place] = self._solve(place)
        return self._tensors[place]

    def each(self) -> Iterator[tuple[Place, Tensors]]:
        """Yield the tensors of every source point; none is kept."""
        for done, place in enumerate(self._places, start=1):
            yield place, self._tensors.get(place) or self._solve(place)
            if self._on_solved is not None:
                self._on_solved(done, len(self._places))

    def solve(self) -> None:
        """Solve all of them, and keep them."""
        self._tensors = dict(self.each())

    def fits(self) -> pa.Table:
        """Return how each was solved; what has not been is, now."""
        for place in self._places:
            if place not in self._rows:
                self.of_source(place)
        rows = [row for place in self._places for row in self._rows[place]]
        return pa.Table.from_pylist(rows, schema=FITS)

    def _solve(self, place: Place) -> Tensors:
        stack, source = place
        fit, state = self._stacks[stack]
        if source not in {first for first, _ in fit.pairs}:
            raise KeyError(place)
        pairs = [pair for pair in fit.pairs if pair[0] == source]
        tensors: dict[str, Tensor] = {}
        self._rows[place] = []
        with cpu_threads(self._threads):
            for found in sources(state, pairs, ridge=self._ridge, rcond=self._rcond):
                for pair in pairs:
                    tensors |= _maps(fit, found, pair)
                    self._rows[place].append(self._row(stack, fit, found, pair))
        return tensors

    def _row(
        self, stack: str, fit: StackFit, found: Source, pair: tuple[int, int]
    ) -> dict[str, Any]:
        return {
            "stack": stack,
            "name": fit.points.name(*pair),
            "source": pair[0],
            "target": pair[1],
            "kind": found.kind,
            "step": fit.steps.get(pair),
            "rank": found.rank,
            "condition": found.condition,
            "n_rows": found.n_rows,
            "solver": fit.solver,
            "ridge": self._ridge,
            "rcond": self._rcond,
        }


def _maps(fit: StackFit, found: Source, pair: tuple[int, int]) -> dict[str, Tensor]:
    name, last = fit.points.name(*pair), fit.points.n_blocks
    fitted = found.solve(pair[1])
    tensors = map_tensors(found.kind, name, LinearMap(fitted.weight, fitted.bias))
    if pair[0] < last and pair[1] == last:
        basis, variances = found.output_basis(fitted)
        tensors[f"{found.kind}.{name}.basis"] = stored(basis)
        tensors[f"{found.kind}.{name}.variances"] = stored(variances)
        if fitted.bias is not None:
            tensors[f"{found.kind}.{name}.mean"] = stored(found.output_mean(fitted))
    return tensors

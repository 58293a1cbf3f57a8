"""RowBuffer: the rows themselves, in one order whatever order they came in."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.reducers import settings
from pyengine.reducers.row_states import RowReducer, exactly

PLACES = ("units", "positions", "ids")


class RowBuffer(RowReducer):
    """Keep rows, sorted by unit and position: the same bits for any order, batches and merges.

    Args:
        n_points, d_model, device: as in `RowReducer`.
        dtype: of the rows.
    """

    exact = True

    def __init__(
        self,
        n_points: int,
        d_model: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(n_points, d_model, device=device)
        self.dtype = dtype
        self._chunks: list[tuple[Tensor, ...]] = []  # rows, units, positions, ids; never changed

    @staticmethod
    def bytes(n_rows: int, n_points: int, d_model: int, dtype: torch.dtype = torch.float32) -> int:
        """Return the size of so many rows."""
        return n_rows * (n_points * d_model * dtype.itemsize + 8 * len(PLACES))

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"dtype": str(self.dtype).removeprefix("torch.")}

    @property
    def rows(self) -> Tensor:
        """Return the rows, [n_rows, n_keys], sorted."""
        return self._sorted()[0]

    @property
    def units(self) -> Tensor:
        """Return the unit of each row, int64 [n_rows]."""
        return self._sorted()[1]

    @property
    def positions(self) -> Tensor:
        """Return the position of each row in its unit, int64 [n_rows]."""
        return self._sorted()[2]

    @property
    def ids(self) -> Tensor:
        """Return the offset in the corpus of the first token of each row's unit, int64 [n_rows].

        -1 where it was not given.
        """
        return self._sorted()[3]

    def group(self, source: int, target: int) -> int:
        """Return 0: all points are in one group, as `TSQR` has them."""
        return 0

    def columns(self, group: int, point: int | None = None) -> Tensor:
        """Return a point of all rows, float64 [n_rows, d_model].

        Without a point, a column of ones, [n_rows, 1].
        """
        rows = self.rows
        if point is None:
            return rows.new_ones(len(rows), 1, dtype=torch.float64)
        return rows[:, point * self.d_model : (point + 1) * self.d_model].double()

    def folded(self) -> Self:
        """Return itself, sorted."""
        self._sorted()
        return self

    def merge(self, other: Self) -> None:
        """Add what another has kept, on any device.

        Raises:
            PyengineError: if the two differ in a setting.
        """
        settings.check_same(self.settings(), other.settings(), "merge reducers with")
        self._chunks += [tuple(t.to(self.device) for t in chunk) for chunk in other._chunks]
        self.n_rows, self.n_nan = self.n_rows + other.n_rows, self.n_nan + other.n_nan

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state and the settings, on the CPU, not to be changed.

        `rows` [n_rows, n_keys], `units`, `positions`, `ids` int64 [n_rows], `n_nan` int64 [1];
        `settings` uint8: JSON.
        """
        names = ("rows", *PLACES)
        found = {n: t.cpu() for n, t in zip(names, self._sorted(), strict=True)}
        found["n_nan"] = torch.tensor([self.n_nan])
        return found | {"settings": settings.to_tensor(self.settings())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            PyengineError: if it is the state of another reducer, or of other settings.
        """
        if missing := {"rows", *PLACES, "n_nan", "settings"} - state.keys():
            raise PyengineError(f"the state of a RowBuffer lacks {', '.join(sorted(missing))}")
        settings.check_same(
            self.settings(), settings.from_tensor(state["settings"]), "load a state with"
        )
        with exactly(self.device):
            chunk = tuple(state[n].to(self.device, copy=True) for n in ("rows", *PLACES))
        self._chunks = [chunk] if len(chunk[0]) else []
        self.n_rows, self.n_nan = len(chunk[0]), int(state["n_nan"])

    def snapshot(self) -> Any:
        """Return the state for `restore`; nothing is copied."""
        return self.n_rows, self.n_nan, [*self._chunks]

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self.n_rows, self.n_nan, chunks = snapshot
        self._chunks = [*chunks]

    def _take(
        self, rows: Tensor, units: Tensor | None, positions: Tensor | None, ids: Tensor | None
    ) -> None:
        if units is None or positions is None:
            raise PyengineError("a RowBuffer needs the units and positions of its rows")
        given = (units, positions, torch.full_like(units, -1) if ids is None else ids)
        self._chunks.append((rows, *(place.to(self.device, torch.int64) for place in given)))

    def _sorted(self) -> tuple[Tensor, ...]:
        """Return rows, units, positions and ids as one chunk, which replaces the others."""
        if len(self._chunks) == 1 and _ascending(*self._chunks[0][1:3]):
            return self._chunks[0]
        with exactly(self.device):
            none = torch.zeros(0, dtype=torch.int64, device=self.device)
            places = [torch.cat([none, *(chunk[i] for chunk in self._chunks)]) for i in (1, 2, 3)]
            order = places[1].argsort(stable=True)
            order = order[places[0][order].argsort(stable=True)]
            at = torch.empty_like(order)
            at[order] = torch.arange(len(order), device=self.device)
            rows = torch.empty(len(at), self.n_keys, dtype=self.dtype, device=self.device)
            begun = 0
            for chunk, *_ in self._chunks:
                rows[at[begun : begun + len(chunk)]] = chunk
                begun += len(chunk)
            found = rows, *(place[order] for place in places)
        self._chunks = [found]
        return found


def _ascending(units: Tensor, positions: Tensor) -> bool:
    later = units[1:] > units[:-1]
    return bool((later | ((units[1:] == units[:-1]) & (positions[1:] >= positions[:-1]))).all())

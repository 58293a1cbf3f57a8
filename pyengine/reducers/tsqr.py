"""TSQR: the triangular factor of any stream of rows, without ever squaring its condition."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.reducers.block_states import BlockReducer

BLOCK_ROWS = 1024  # at least; a block also has as many rows as a factor


class TSQR(BlockReducer):
    """Keep R of [1 | points] = Q R for groups of points (Demmel et al. 2012, sequential TSQR).

    The rows of R stand for the data: any least-squares problem among the points of a group has the
    same solution on either. Works in anybody's loop, as `Gram` does.

    Args:
        n_points, d_model, device: as in `RowReducer`.
        groups: points whose pairs are wanted, each with its own factor.
        block_rows: rows factorised at once; None: 1,024, or the largest factor's if that is more.

    Raises:
        PyengineError: for an argument out of range.
    """

    def __init__(
        self,
        n_points: int,
        d_model: int,
        groups: Iterable[Sequence[int]],
        *,
        block_rows: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.groups = [tuple(int(point) for point in group) for group in groups]
        for group in self.groups:
            if not group or len({*group}) < len(group) or not {*group} <= {*range(n_points)}:
                raise PyengineError(f"there is no group {group} of {n_points} points")
        widest = max((1 + len(group) * d_model for group in self.groups), default=1)
        super().__init__(n_points, d_model, block_rows or max(BLOCK_ROWS, widest), device)

    @staticmethod
    def bytes(d_model: int, groups: Iterable[Sequence[int]]) -> int:
        """Return the size of the factors of these groups."""
        return sum(8 * (1 + len(group) * d_model) ** 2 for group in groups)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"groups": [list(group) for group in self.groups]}

    def group(self, source: int, target: int) -> int:
        """Return the first group that holds two points.

        Raises:
            PyengineError: if none does.
        """
        for number, group in enumerate(self.groups):
            if source in group and target in group:
                return number
        raise PyengineError(f"no group holds the points {source} and {target}")

    def columns(self, group: int, point: int | None = None) -> Tensor:
        """Return a point's columns of a group's factor as folded, float64 [n, d_model].

        Without a point, the column of ones', [n, 1].
        """
        factor = self._sums[f"factor.{group}"]
        if point is None:
            return factor[:, :1]
        first = 1 + self.groups[group].index(point) * self.d_model
        return factor[:, first : first + self.d_model]

    def _fold(self, rows: Tensor) -> None:
        points = rows.view(len(rows), self.n_points, self.d_model)
        ones = rows.new_ones(len(rows), 1)
        for number, group in enumerate(self.groups):
            block = torch.cat([ones, points[:, list(group)].flatten(1)], dim=1)
            self._add(f"factor.{number}", block)

    def _join(self, theirs: Mapping[str, Tensor], n_rows: int) -> None:
        for name, factor in theirs.items():
            self._add(name, factor)

    def _add(self, name: str, rows: Tensor) -> None:
        before = [self._sums[name]] if name in self._sums else []
        self._sums[name] = torch.linalg.qr(torch.cat([*before, rows]), mode="r").R

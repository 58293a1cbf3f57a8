"""Gram: products of points with points, summed in float64 over any stream of rows."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.reducers.block_states import BlockReducer

BLOCK_ROWS = 1024  # of a product: enough that it is not bound by reading the sums

Pair = tuple[int, int]


class Gram(BlockReducer):
    """Sum Σ (x_i - m_i)(x_j - m_j)ᵀ of pairs of points, all that least squares from i to j needs.

    Works in anybody's loop::

        gram = Gram(n_points=13, d_model=768, pairs=[(i, 12) for i in range(12)])
        for acts, mask in batches:                # acts [B, T, 13 * 768]
            gram.update(acts, mask=mask)

    Rows are cast to float64 *before* they are multiplied; products of float32 lose the small
    directions. The means are kept apart (Chan et al. 1979), which does not cancel where they are
    large beside the deviations.

    Args:
        n_points, d_model, device: as in `RowReducer`.
        pairs: (source, target); each source's product with itself is kept, too.
        block_rows: rows multiplied at once.

    Raises:
        PyengineError: for an argument out of range.
    """

    def __init__(
        self,
        n_points: int,
        d_model: int,
        pairs: Iterable[Pair],
        *,
        block_rows: int = BLOCK_ROWS,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(n_points, d_model, block_rows, device)
        self.pairs = blocks_of(pairs, n_points)
        self._at = {pair: number for number, pair in enumerate(self.pairs)}

    @staticmethod
    def bytes(d_model: int, pairs: Iterable[Pair]) -> int:
        """Return the size of the products of these pairs."""
        return 8 * d_model**2 * len(blocks_of(pairs))

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"pairs": [list(pair) for pair in self.pairs]}

    def mean(self, point: int) -> Tensor:
        """Return the mean of a point, float64 [d_model], of what is folded."""
        return self._point(self._sums["mean"], point)

    def product(self, source: int, target: int) -> Tensor:
        """Return Σ (x_source - mean)(x_target - mean)ᵀ, float64 [d_model, d_model], as folded.

        Raises:
            PyengineError: if there is none of this pair.
        """
        if (source, target) not in self._at:
            raise PyengineError(f"the products of points {source} and {target} were not asked for")
        return self._sums["products"][self._at[source, target]]

    def _fold(self, rows: Tensor) -> None:
        mean = rows.mean(0)
        # The product of the block's own deviations, and that of its mean's, as one more row.
        deviations = torch.cat([rows - mean, self._shift(mean, len(rows))[None]])
        points = deviations.view(len(deviations), self.n_points, self.d_model).unbind(1)
        for number, (source, target) in enumerate(self.pairs):
            self._sums["products"][number].addmm_(points[source].t(), points[target])

    def _join(self, theirs: Mapping[str, Tensor], n_rows: int) -> None:
        shift = self._shift(theirs["mean"], n_rows)
        for number, (source, target) in enumerate(self.pairs):
            product = self._sums["products"][number]
            product.add_(theirs["products"][number])
            product.addr_(self._point(shift, source), self._point(shift, target))

    def _shift(self, mean: Tensor, n_rows: int) -> Tensor:
        """Take the mean of so many rows more into ours; return what that adds, as one row."""
        self._own()
        if not self._sums:
            shape = len(self.pairs), self.d_model, self.d_model
            self._sums = {"mean": mean.clone(), "products": mean.new_zeros(shape)}
            return torch.zeros_like(mean)
        before, n = self._n_folded, self._n_folded + n_rows
        delta = mean - self._sums["mean"]
        self._sums["mean"].add_(delta, alpha=n_rows / n)
        return delta * (before * n_rows / n) ** 0.5

    def _point(self, row: Tensor, point: int) -> Tensor:
        return row[point * self.d_model : (point + 1) * self.d_model]


def blocks_of(pairs: Iterable[Pair], n_points: int | None = None) -> list[Pair]:
    """Return the products that pairs need, (i, i) of every source among them, ascending.

    Raises:
        PyengineError: for a pair of points that are not there.
    """
    found = [(int(source), int(target)) for source, target in pairs]
    for pair in found:
        if min(pair) < 0 or (n_points is not None and max(pair) >= n_points):
            raise PyengineError(f"there is no pair {pair} of {n_points} points")
    return sorted({*found, *((source, source) for source, _ in found)})

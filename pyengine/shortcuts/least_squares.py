"""Least squares with one policy for singular sources, of rows or of their products.

What is made least is ‖X Aᵀ - Y‖² + λ ‖A‖². If no singular value of X counts as zero, or the ridge λ
is large enough, that has one solution; else the one of least norm is taken.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Targets = Callable[[int], Tensor]


class Problem(Protocol):
    """Least squares from one source to any target, in float64.

    Attributes:
        singular_values: of the source, descending, [d].
    """

    singular_values: Tensor

    def product(self) -> Tensor:
        """Return XᵀX of the source X, [d, d]."""

    def unique(self, target: int, ridge: float) -> Tensor:
        """Return the solution Aᵀ, [d, d], where there is one."""

    def least_norm(self, target: int, ridge: float, rank: int) -> Tensor:
        """Return the solution Aᵀ, [d, d], of the `rank` largest singular values."""


class OfRows:
    """Of rows X [n, d] and targets Y(j) [n, d], or of what an orthogonal matrix makes of them."""

    def __init__(self, rows: Tensor, targets: Targets) -> None:
        assert rows.dtype == torch.float64, f"maps are solved in float64, not {rows.dtype}"
        self._rows, self._targets = rows, targets
        self._factors: tuple[Tensor, ...] = ()
        values = torch.linalg.svdvals(rows)
        missing = rows.shape[1] - len(values)
        self.singular_values = torch.cat([values, values.new_zeros(missing)])

    def product(self) -> Tensor:
        return self._rows.t() @ self._rows

    def unique(self, target: int, ridge: float) -> Tensor:
        if not self._factors:
            shrink = torch.eye(self._rows.shape[1]).to(self._rows) * ridge**0.5
            stacked = torch.cat([self._rows, shrink]) if ridge else self._rows
            self._factors = tuple(torch.linalg.qr(stacked))
        q, r = self._factors
        targets = q[: len(self._rows)].t() @ self._targets(target)
        return torch.linalg.solve_triangular(r, targets, upper=True)

    def least_norm(self, target: int, ridge: float, rank: int) -> Tensor:
        if not self._factors:
            self._factors = tuple(torch.linalg.svd(self._rows, full_matrices=False))
        u, sigma, v = self._factors
        u, sigma, v = u[:, :rank], sigma[:rank, None], v[:rank]
        return v.t() @ (sigma / (sigma.square() + ridge) * (u.t() @ self._targets(target)))


class OfProducts:
    """Of products XᵀX [d, d] and XᵀY(j) [d, d]."""

    def __init__(self, product: Tensor, targets: Targets) -> None:
        assert product.dtype == torch.float64, f"maps are solved in float64, not {product.dtype}"
        self._product, self._targets = product, targets
        self._factors: tuple[Tensor, ...] = ()
        squares = torch.linalg.eigvalsh(product).flip(0)
        self.singular_values = squares.clamp(min=0).sqrt()

    def product(self) -> Tensor:
        return self._product

    def unique(self, target: int, ridge: float) -> Tensor:
        if not self._factors:
            shrink = torch.eye(len(self._product)).to(self._product) * ridge
            self._factors = (torch.linalg.cholesky(self._product + shrink),)
        return torch.cholesky_solve(self._targets(target), self._factors[0])

    def least_norm(self, target: int, ridge: float, rank: int) -> Tensor:
        if not self._factors:
            self._factors = tuple(torch.linalg.eigh(self._product))
        squares, vectors = self._factors
        first = len(squares) - rank  # they ascend
        vectors, squares = vectors[:, first:], squares[first:, None]
        return vectors @ ((vectors.t() @ self._targets(target)) / (squares + ridge))

"""What the path ops must hold on every backend; used by the tests, the interpreter and the GPU."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyengine import ops, reference

LAYOUTS = ("rows", "every other column", "columns", "cut from wider rows")


@dataclass(frozen=True)
class Case:
    """Paths and their nodes; multiples of 1/4 make every result exact, in half precision, too."""

    seed: int = 0
    n_sources: int = 4
    n_rows: int = 13
    d: int = 7
    dtype: torch.dtype = torch.float32
    scalars: torch.dtype = torch.float32  # alpha and weights
    layout: str = "rows"
    exact: bool = True
    wild: bool = False  # NaN, infinities and -0.0
    device: str = "cpu"

    def matrix(self, n_rows: int, salt: int) -> Tensor:
        """Return [n_rows, d] in the case's layout."""
        draw = torch.Generator().manual_seed(self.seed * 10 + salt)
        size = n_rows, self.d
        exact = torch.randint(-6, 7, size, generator=draw).float()
        values = exact if self.exact else torch.randn(size, generator=draw)
        if self.wild:
            for special in (math.nan, math.inf, -math.inf, -0.0):
                values[torch.rand(size, generator=draw) < 0.05] = special
        return laid_out(values.to(self.device, self.dtype), self.layout)

    def scalar(self, salt: int) -> Tensor:
        """Return [R] alphas or weights, -1 to 1; strided unless the layout is plain."""
        draw = torch.Generator().manual_seed(self.seed * 10 + salt)
        exact = torch.randint(-4, 5, (self.n_rows,), generator=draw) / 4
        values = exact if self.exact else torch.rand(self.n_rows, generator=draw) * 2 - 1
        return self._line(values.to(self.scalars))

    def source(self, *, ascending: bool) -> Tensor:
        """Return int64 [R]; some sources have no rows, others several."""
        draw = torch.Generator().manual_seed(self.seed * 10 + 5)
        source = torch.randint(max(1, self.n_sources), (self.n_rows,), generator=draw)
        return self._line(source.sort().values if ascending else source)

    def _line(self, values: Tensor) -> Tensor:
        values = values.to(self.device)
        return values if self.layout == "rows" else torch.stack([values, values], 1)[:, 0]


def laid_out(values: Tensor, layout: str) -> Tensor:
    """Return equal numbers with other strides."""
    n_rows, d = values.shape
    if layout == "every other column":
        return torch.stack([values, values + 1], 2).view(n_rows, 2 * d)[:, ::2]
    if layout == "columns":
        return values.t().contiguous().t()
    if layout == "cut from wider rows":
        return torch.nn.functional.pad(values, (3, 2), value=math.nan)[:, 3 : 3 + d]
    return values


def check_points(case: Case) -> None:
    """Hold `path_points` to the oracle."""
    base, step = case.matrix(case.n_sources, 1), case.matrix(case.n_sources, 2)
    source, alpha = case.source(ascending=False), case.scalar(3)
    found = ops.path_points(base, step, source, alpha)
    expected = reference.path_points(base, step, source, alpha)
    assert found.dtype == case.dtype and found.is_contiguous() and not found.requires_grad
    size = reference.path_points(base.abs(), step.abs(), source, alpha.abs()).double()
    _check(case, found, expected, size)


def check_sums(case: Case, *, alone: bool = True) -> None:
    """Hold `path_sums` to the oracle and to itself.

    `alone`: the bits of a sum must depend on the rows of its source alone.
    """
    gradients, weights = case.matrix(case.n_rows, 1), case.scalar(2)
    source = case.source(ascending=True)
    found = ops.path_sums(gradients, source, weights, case.n_sources)
    expected = reference.path_sums(gradients, source, weights, case.n_sources)
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    assert found.dtype == wide and not found.requires_grad
    size = reference.path_sums(gradients.double().abs(), source, weights.abs(), case.n_sources)
    _check(case, found, expected, size)
    assert same_bits(found, ops.path_sums(gradients, source, weights, case.n_sources))
    for s in range(case.n_sources):
        own = source == s
        assert bool(own.any()) or not bool(found[s].any())
        clean = gradients[own].isfinite().all(0)
        assert bool(found[s].isfinite()[clean].all()), f"source {s} of {case}"
        if alone:
            single = ops.path_sums(gradients[own], source[own] - s, weights[own], 1)
            assert same_bits(found[s], single[0]), f"source {s} of {case}"


def _check(case: Case, found: Tensor, expected: Tensor, size: Tensor) -> None:
    """Compare with the oracle: exactly, or up to the rounding of numbers of that size."""
    assert found.shape == expected.shape
    if case.exact:
        assert same_numbers(found, expected), (case, found, expected)
        return
    finite = expected.isfinite()
    assert same_numbers(found[~finite], expected[~finite]), case
    single = torch.finfo(torch.float64 if case.dtype == torch.float64 else torch.float32)
    allowed = (case.n_rows + 4) * single.eps * size + single.tiny
    allowed += torch.finfo(found.dtype).eps * expected.double().abs()
    error = (found.double() - expected.double()).abs()
    assert bool((error <= allowed)[finite].all()), case


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same numbers, NaN where NaN, -0.0 where -0.0."""
    equal = (a == b) & (a.signbit() == b.signbit())
    return a.shape == b.shape and bool((equal | (a.isnan() & b.isnan())).all())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of float32, or of float64, hold the same bits."""
    words = torch.int64 if a.dtype == torch.float64 else torch.int32
    return torch.equal(a.view(words), b.view(words))

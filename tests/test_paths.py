"""Points on integration paths and sums of their gradients, on the CPU, against the oracle."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from path_checks import LAYOUTS, Case, check_points, check_sums, same_bits, same_numbers

from pyengine import ops, torch_paths

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CPU_BLOCK = torch_paths.CPU_BLOCK  # the real one; the tests have a tiny one


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_sources = draw(st.sampled_from([0, 1, 2, 5, 40]))
    return Case(
        seed=draw(st.integers(0, 99)),
        n_sources=n_sources,
        n_rows=draw(st.sampled_from([0, 1, 2, 9, 33])) if n_sources else 0,
        d=draw(st.sampled_from([0, 1, 3, 8, 131])),
        dtype=draw(st.sampled_from(FLOATS)),
        scalars=draw(st.sampled_from(FLOATS[:2])),
        layout=draw(st.sampled_from(LAYOUTS)),
        exact=draw(st.booleans()),
        wild=draw(st.booleans()),
    )


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    """Cut into several blocks what one would hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_paths, "CPU_BLOCK", 24)
        yield


@given(cases())
def test_points_are_the_oracles(case: Case) -> None:
    check_points(case)


@given(cases())
def test_sums_are_the_oracles(case: Case) -> None:
    check_sums(case)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("wild", [False, True])
def test_the_reference_backend_is_the_oracle(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, wild: bool
) -> None:
    monkeypatch.setenv("PYENGINE_BACKEND", "reference")
    check_points(Case(dtype=dtype, wild=wild, exact=False))
    check_sums(Case(dtype=dtype, wild=wild, exact=False))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_small_case_by_hand(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("PYENGINE_BACKEND", backend)
    base, step = torch.tensor([[1.0, -0.0], [0.0, 4.0]]), torch.tensor([[2.0, -1.0], [math.inf, 0]])
    source, alpha = torch.tensor([1, 0, 0, 1]), torch.tensor([0.5, 0.0, 1.5, 0.0])
    points = ops.path_points(base, step, source, alpha)
    expected = [[math.inf, 4.0], [1.0, -0.0], [4.0, -1.5], [math.nan, 4.0]]
    assert same_numbers(points, torch.tensor(expected))

    gradients = torch.tensor([[1.0, 2.0], [3.0, math.nan], [-math.inf, 5.0], [7.0, 8.0]])
    sums = ops.path_sums(gradients, torch.tensor([0, 1, 1, 3]), torch.tensor([2.0, 1, 2, 0.5]), 5)
    expected = [[2.0, 4.0], [-math.inf, math.nan], [0.0, 0.0], [3.5, 4.0], [0.0, 0.0]]
    assert same_numbers(sums, torch.tensor(expected))


def test_the_sums_of_gradients_on_a_path_are_the_integral() -> None:
    """∂/∂x of Σ x³ by Simpson's rule, which is exact for it: step · sums = the change of Σ x³."""
    draw = torch.Generator().manual_seed(0)
    base, step = torch.randn(2, 3, 5, generator=draw, dtype=torch.float64)
    source, alpha = torch.arange(3).repeat_interleave(3), torch.tensor([0, 0.5, 1]).repeat(3)
    weights = torch.tensor([1, 4, 1], dtype=torch.float64).repeat(3) / 6
    points = ops.path_points(base, step, source, alpha)
    sums = ops.path_sums(3 * points**2, source, weights, 3)
    assert torch.allclose(step * sums, (base + step) ** 3 - base**3, 1e-12, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    n = 3000  # a running sum in half precision would stop growing at 256 or 2048
    ones = torch.ones(n, 1, dtype=dtype)
    source, weights = torch.zeros(n, dtype=torch.int64), torch.ones(n)
    assert ops.path_sums(ones, source, weights, 1).tolist() == [[n]]
    third = torch.tensor([1 / 3])  # itself not rounded to half precision
    step = torch.tensor([[3.0, 300.0]], dtype=dtype)
    points = ops.path_points(-step / 3, step, source[:1], third)
    assert points.dtype == dtype and points.abs().max() < 1e-4


def test_the_bits_depend_neither_on_the_blocks_nor_on_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(n_sources=7, n_rows=40, d=40_001, exact=False)
    gradients, source, weights = case.matrix(40, 1), case.source(ascending=True), case.scalar(2)
    sums = ops.path_sums(gradients, source, weights, 7)
    monkeypatch.setattr(torch_paths, "CPU_BLOCK", CPU_BLOCK)
    torch.set_num_threads(2)
    try:
        assert same_bits(ops.path_sums(gradients, source, weights, 7), sums)
    finally:
        torch.set_num_threads(1)


def test_no_gradient_is_recorded() -> None:
    case = Case()
    base, step = case.matrix(4, 1).requires_grad_(), case.matrix(4, 2)
    points = ops.path_points(base, step, case.source(ascending=True), case.scalar(3))
    assert points.is_leaf and not points.requires_grad
    points.requires_grad_()
    assert not ops.path_sums(points, case.source(ascending=True), case.scalar(2), 4).requires_grad


X, SOURCE, SCALARS = torch.zeros(2, 3), torch.tensor([0, 1, 1]), torch.ones(3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((X[0], X[0], SOURCE, SCALARS), r"base must be floating-point \[S, D\], got .*32 \[3\]"),
        ((X.int(), X.int(), SOURCE, SCALARS), "base must be floating-point.*got torch.int32"),
        ((X, X[:1], SOURCE, SCALARS), r"step must be torch.float32 \[2, 3\], got .* \[1, 3\]"),
        ((X, X.half(), SOURCE, SCALARS), r"step must be torch.float32 .*got torch.float16"),
        ((X, X, SOURCE.int(), SCALARS), r"source must be int64 \[R\], got torch.int32 \[3\]"),
        ((X, X, SOURCE[None], SCALARS), r"source must be int64 \[R\], got torch.int64 \[1, 3\]"),
        ((X, X, SOURCE, SCALARS[:2]), r"alpha must be float32 or float64 \[3\], got .* \[2\]"),
        ((X, X, SOURCE, SCALARS.half()), "alpha must be float32 or float64.*got torch.float16"),
        ((X, X, SOURCE.to("meta"), SCALARS), "source must be on cpu, got meta"),
        ((X, X, SOURCE, SCALARS.to("meta")), "alpha must be on cpu, got meta"),
        ((X, X, SOURCE + 1, SCALARS), "source 2 is out of range; there are 2 sources"),
        ((X, X, SOURCE - 1, SCALARS), "source -1 is out of range"),
    ],
)
def test_points_refuse(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.path_points(*arguments)


G = torch.zeros(3, 4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((G[0], SOURCE, SCALARS, 2), r"gradients must be floating-point \[R, D\], got"),
        ((G.long(), SOURCE, SCALARS, 2), "gradients must be floating-point.*got torch.int64"),
        ((G[:2], SOURCE, SCALARS, 2), r"source must be int64 \[2\], got torch.int64 \[3\]"),
        ((G, SOURCE.int(), SCALARS, 2), r"source must be int64 \[R\], got torch.int32"),
        ((G, SOURCE, SCALARS[:2], 2), r"weights must be float32 or float64 \[3\], got"),
        ((G, SOURCE, SCALARS.long(), 2), "weights must be .*got torch.int64"),
        ((G, SOURCE, SCALARS.to("meta"), 2), "weights must be on cpu, got meta"),
        ((G, SOURCE, SCALARS, 1), "source 1 is out of range; there are 1 sources"),
        ((G, SOURCE - 1, SCALARS, 2), "source -1 is out of range"),
        ((G, SOURCE, SCALARS, -1), "n_sources must not be negative, got -1"),
        ((G, SOURCE.flip(0), SCALARS, 2), "source must ascend: sort the rows"),
    ],
)
def test_sums_refuse(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.path_sums(*arguments)

"""Least-squares maps in closed form: by hand, against NumPy in float64, through every solver."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shortcuts_cases import (
    SOLVERS,
    centred,
    fill,
    filled,
    hard_rows,
    normal,
    numpys,
    reducer,
    relative,
    solved,
)
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.shortcuts.linear_map import AFFINE, KINDS, MAT
from pyengine.shortcuts.solve import sources

X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
Y = torch.tensor([[1.0, 0.0], [0.0, 2.0], [2.0, 1.0]])
BATCHES = [(), (1,), (2,), (1, 1), (0, 3), (1, 0, 1, 0)]


def r2(y: Tensor, predicted: Tensor) -> float:
    """Return r², averaged over coordinates, none of which is constant."""
    errors = (y - predicted).square().sum(0)
    return float((1 - errors / (y - y.mean(0)).square().sum(0)).mean())


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("block_rows", [1, 2, 1000])
def test_closed_form_1_a_map_without_intercept(
    name: str, batches: tuple[int, ...], block_rows: int
) -> None:
    state = reducer(name, 2, 2, [(0, 1)], block_rows=block_rows)
    source, fitted = solved(fill(state, torch.cat([X, Y], 1), batches), 0, 1, MAT)
    np.testing.assert_allclose(fitted.weight, np.array([[4, 1], [-1, 5]]) / 3, atol=1e-14)
    assert fitted.bias is None
    assert (source.rank, source.n_rows) == (2, 3)
    assert source.condition == pytest.approx(math.sqrt(3), rel=1e-14)
    assert r2(Y.double(), X.double() @ fitted.weight.T) == pytest.approx(5 / 6, rel=1e-13)
    assert r2(Y, X) == pytest.approx(1 / 2)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("batches", BATCHES)
def test_closed_form_2_an_intercept(name: str, batches: tuple[int, ...]) -> None:
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    state = fill(reducer(name, 2, 1, [(0, 1)], block_rows=2), torch.cat([x, x + 3], 1), batches)
    _, mat = solved(state, 0, 1, MAT)
    assert mat.weight.item() == pytest.approx(16 / 7, rel=1e-14)
    assert r2(x + 3, x @ mat.weight.T) == pytest.approx(-13 / 14, rel=1e-12)
    source, affine = solved(state, 0, 1, AFFINE)
    assert affine.weight.item() == pytest.approx(1, rel=1e-14)
    assert affine.bias.item() == pytest.approx(3, rel=1e-14)
    assert r2(x + 3, x @ affine.weight.T + affine.bias) == pytest.approx(1, rel=1e-13)
    assert r2(x + 3, x) == pytest.approx(-12.5)
    assert (source.rank, source.condition) == (1, 1)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("batches", BATCHES)
def test_closed_form_3_a_chain_of_maps(name: str, batches: tuple[int, ...]) -> None:
    p, q, x = (normal(*shape, seed=seed) for seed, shape in enumerate([(5, 5), (5, 5), (40, 5)]))
    pairs = [(0, 1), (0, 2), (1, 2)]
    chain = torch.cat([x, x @ p.T, x @ p.T @ q.T], dim=1)
    state = fill(reducer(name, 3, 5, pairs), chain, batches)
    for kind in KINDS:
        maps = {
            (source.source, target): source.solve(target)
            for source in sources(state, pairs, kinds=[kind])
            for target in source.targets
        }
        wanted = {(0, 1): p, (1, 2): q, (0, 2): q @ p}
        for pair, weight in wanted.items():
            assert relative(maps[pair].weight, weight) < 1e-10
        assert relative(maps[1, 2].weight @ maps[0, 1].weight, maps[0, 2].weight) < 1e-10
        if kind == AFFINE:
            biases = [fitted.bias for fitted in maps.values() if fitted.bias is not None]
            assert len(biases) == 3
            assert all(bias.abs().max() < 1e-10 for bias in biases)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_maps_of_hard_rows_are_those_of_float64(name: str, kind: str, spread: float) -> None:
    x, y = hard_rows(spread=spread)
    values = np.linalg.svd(centred(x, kind).numpy(), compute_uv=False)
    assert 500 < values[0] / values[-1] < 1e6, "the case is hard, and not singular"
    weight, bias = numpys(x, y, kind, rcond=0)
    with torch.autocast("cpu"), torch.inference_mode():
        source, fitted = solved(filled(name, [x, y], [(0, 1)], block_rows=100), 0, 1, kind)
    assert source.rank == x.shape[1]
    assert source.condition == pytest.approx(values[0] / values[-1], rel=1e-4)
    assert relative(fitted.weight, weight) < {"gram": 1e-6}.get(name, 1e-9)
    if kind == AFFINE:
        assert relative(fitted.bias, bias) < {"gram": 1e-6}.get(name, 1e-9)


def test_a_float32_gram_fails_that_bound_though_its_r2_looks_perfect() -> None:
    x, y = hard_rows()
    weight, _ = numpys(x, y, MAT, rcond=0)
    lossy = torch.linalg.solve((x.T @ x).double(), (x.T @ y).double()).T
    assert relative(lossy, weight) > 1e-4
    exact = r2(y.double(), x.double() @ torch.from_numpy(weight).T)
    assert exact > 0.95
    assert r2(y.double(), x.double() @ lossy.T) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_truncation_by_the_output_basis_is_reduced_rank_regression(name: str, kind: str) -> None:
    x, y = (normal(50, 6) * torch.logspace(0, 1, 6) + 2), normal(50, 6, seed=1)
    y = y + x @ normal(6, 6, seed=2)
    source, fitted = solved(filled(name, [x, y], [(0, 1)]), 0, 1, kind)
    basis, variances = source.output_basis(fitted)
    torch.testing.assert_close(basis.T @ basis, torch.eye(6, dtype=torch.float64))
    outputs = centred(x, kind) @ fitted.weight.T
    left, values, right = torch.linalg.svd(outputs, full_matrices=False)
    torch.testing.assert_close(variances, values.square() / 50)
    for rank in range(7):
        kept = basis[:, :rank]
        best = (left[:, :rank] * values[:rank]) @ right[:rank]  # Eckart and Young
        torch.testing.assert_close(outputs @ kept @ kept.T, best)


@given(
    n=st.integers(1, 30),
    d=st.integers(1, 6),
    rank=st.integers(0, 6),
    seed=st.integers(0, 2**32),
    shift=st.sampled_from([0.0, 1.0, 100.0]),
    batches=st.lists(st.integers(0, 9), max_size=4),
)
def test_all_solvers_agree_on_anything_small(
    n: int, d: int, rank: int, seed: int, shift: float, batches: list[int]
) -> None:
    x = normal(n, min(rank, d), seed=seed) @ normal(min(rank, d), d, seed=seed + 1) + shift
    z = torch.cat([x, normal(n, d, seed=seed + 2)], dim=1)
    for kind in KINDS:
        states = {name: fill(reducer(name, 2, d, [(0, 1)]), z, batches) for name in SOLVERS}
        found = {name: solved(state, 0, 1, kind) for name, state in states.items()}
        rows, by_rows = found.pop("rows")
        for source, fitted in found.values():
            assert source.rank == rows.rank
            if rows.rank and rows.condition < 1e4:
                torch.testing.assert_close(fitted.weight, by_rows.weight, rtol=1e-6, atol=1e-6)
                assert source.condition == pytest.approx(rows.condition, rel=1e-5)


def test_sources_are_factorised_once_for_all_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    for name in ("qr", "svd", "svdvals", "cholesky", "eigvalsh", "eigh"):
        real = getattr(torch.linalg, name)

        def counting(matrix: Tensor, *rest: Any, real: Any = real, **more: Any) -> Any:
            calls.append(tuple(matrix.shape))
            return real(matrix, *rest, **more)

        monkeypatch.setattr(torch.linalg, name, counting)
    points = [normal(100, 4, seed=seed) for seed in range(6)]
    for name in ("rows", "gram"):
        counts = []
        for pairs in ([(0, 5)], [(0, 2), (0, 3), (0, 4), (0, 5)]):
            state = filled(name, points, pairs)
            calls.clear()
            for source in sources(state, pairs):
                for target in source.targets:
                    source.solve(target)
            counts.append(len(calls))
            assert sum(shape[0] == 100 for shape in calls) == (name == "rows")
        assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("rows", {"ridge": -1.0}, "ridge must be a number from 0 on, got -1.0"),
        ("rows", {"ridge": math.nan}, "ridge"),
        ("rows", {"rcond": 1.0}, "rcond must be from 0 to 1"),
        ("gram", {"rcond": 1e-12}, "rcond must be from 1.19e-07 to 1 for this solver, got 1e-12"),
        ("rows", {"kinds": ["id"]}, "kind"),
        ("gram", {"pairs": [(0, 2)]}, "points 0 and 2 were not asked for"),
        ("exact", {"pairs": [(0, 2)]}, "no group holds the points 0 and 2"),
        ("rows", {"pairs": [(0, 3)]}, r"no pair \(0, 3\) of 3 points"),
    ],
)
def test_what_cannot_be_solved_is_refused(name: str, more: dict[str, Any], said: str) -> None:
    state = filled(name, [X, Y, X], [(0, 1)])
    with pytest.raises(PyengineError, match=said):
        list(sources(state, **({"pairs": [(0, 1)]} | more)))


@pytest.mark.parametrize("name", SOLVERS)
def test_no_rows_are_refused(name: str) -> None:
    state = reducer(name, 2, 2, [(0, 1)])
    state.add(torch.full((3, 4), math.nan), torch.arange(3), torch.arange(3))
    with pytest.raises(PyengineError, match=r"no rows to fit maps on \(3 are not finite\)"):
        list(sources(state, [(0, 1)]))

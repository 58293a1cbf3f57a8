"""r² against cases in closed form, scikit-learn's definition in NumPy, and chains of maps."""

import numpy as np
import pytest
import torch
from shortcut_score_cases import case, fitted
from torch import Tensor

from pyengine.shortcuts import r2
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.lens import maps_of
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.r2 import r_squared
from pyengine.shortcuts.r2_positions import ranges
from pyengine.shortcuts.r2_table import r2_table


def score(source: Tensor, target: Tensor, mapping: LinearMap) -> r2.R2:
    return r_squared(source, target, {"it": mapping})["it"]


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values)


def brute_force(x: np.ndarray, y: np.ndarray, predicted: np.ndarray) -> float:
    """Return scikit-learn's r2_score(y, predicted), uniform average, in float64."""
    found = []
    for c in range(y.shape[1]):
        errors = ((y[:, c] - predicted[:, c]) ** 2).sum()
        total = ((y[:, c] - y[:, c].mean()) ** 2).sum()
        found.append(1 - errors / total if total else float(errors == 0))
    return float(np.mean(found))


def test_three_points_in_the_plane() -> None:
    x, y = rows([1, 0], [0, 1], [1, 1]), rows([1, 0], [0, 2], [2, 1])
    fitted = torch.tensor([[4.0, 1.0], [-1.0, 5.0]]) / 3
    assert score(x, y, LinearMap(fitted)).r2 == pytest.approx(5 / 6, abs=1e-6)
    assert score(x, y, LinearMap()).r2 == pytest.approx(1 / 2)


def test_line_with_an_intercept() -> None:
    x, y = rows([1], [2], [3]), rows([4], [5], [6])
    assert score(x, y, LinearMap(torch.tensor([[16 / 7]]))).r2 == pytest.approx(-13 / 14, abs=1e-6)
    assert score(x, y, LinearMap(torch.eye(1), torch.tensor([3.0]))).r2 == 1
    assert score(x, y, LinearMap()).r2 == pytest.approx(-12.5)


def test_constant_coordinate_counts_one_or_nothing() -> None:
    x, y = rows([1, 0], [2, 0], [4, 0]), rows([1, 7], [2, 7], [4, 7])
    bias = torch.tensor([0.0, 7.0])
    assert score(x, y, LinearMap(torch.eye(2), bias)).r2 == 1
    assert score(x, y, LinearMap(torch.eye(2), bias + torch.tensor([0.0, 1.0]))).r2 == 0.5


def test_chain_of_two_maps_is_the_map_of_the_chain() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 5, generator=generator) for _ in "ab")
    x = torch.randn(40, 5, generator=generator)
    y = x @ first.t() @ second.t()
    assert score(x, y, LinearMap(second @ first)).r2 == pytest.approx(1, abs=1e-10)


def test_residual_is_that_of_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(200, 3, generator=generator)
    y = x + 0.1 * torch.randn(200, 3, generator=generator)
    plain, residual = score(x, y, LinearMap())
    assert plain > 0.999  # flattered
    assert residual == pytest.approx(0, abs=0.02)  # x says nothing of y - x
    assert residual <= 0
    still = score(x, x, LinearMap())
    assert still == (1, 1)  # y - x is constant, and predicted


def test_mean_far_above_the_spread() -> None:
    generator = np.random.default_rng(0)
    y = (1e4 + 1e-2 * generator.standard_normal((500, 3))).astype(np.float32)
    x = (1e4 + 1e-2 * generator.standard_normal((500, 3))).astype(np.float32)
    expected = brute_force(x, y.astype(np.float64), x.astype(np.float64))
    found = score(torch.from_numpy(x), torch.from_numpy(y), LinearMap())
    assert found.r2 == pytest.approx(expected, rel=1e-9)


def test_one_row_far_from_the_others_does_not_blur_them() -> None:
    generator = np.random.default_rng(0)
    y = generator.standard_normal((500, 2)).astype(np.float32)
    y[0] = 3e4  # a sink, first of all
    x = y + generator.standard_normal(y.shape).astype(np.float32)
    expected = brute_force(x, y.astype(np.float64), x.astype(np.float64))
    found = score(torch.from_numpy(x), torch.from_numpy(y), LinearMap())
    assert found.r2 == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("columns", [1, 3, 1000])
def test_blocks_of_coordinates_change_nothing(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(r2, "LEAST_COLUMNS", columns)
    monkeypatch.setattr(r2, "BLOCK_BYTES", 0)
    generator = np.random.default_rng(1)
    x, y = (generator.standard_normal((30, 7)).astype(np.float32) for _ in "ab")
    weight, bias = generator.standard_normal((7, 7)), generator.standard_normal(7)
    mapping = LinearMap(*(torch.tensor(part, dtype=torch.float32) for part in (weight, bias)))
    found = score(torch.from_numpy(x), torch.from_numpy(y), mapping)
    predicted = x @ weight.T + bias
    assert found.r2 == pytest.approx(brute_force(x, y, predicted), rel=1e-5)
    assert found.residual == pytest.approx(brute_force(x, y - x, predicted - x), rel=1e-5)


def test_nan_is_not_scored_away() -> None:
    x = torch.tensor([[1.0, torch.nan], [2.0, 1.0]])
    assert np.isnan(score(x, x, LinearMap()).r2)


@pytest.mark.parametrize("pairs", ["last", "all"])
def test_table_holds_every_pair_and_mapping(pairs: str) -> None:
    found = case("gpt2", pairs=pairs)
    names = ("id", "mat", "affine", "mat@3")
    maps = {name: maps_of(found.shortcuts, name, "decoder") for name in names}
    seen = []
    table = r2_table(
        found.shortcuts, "decoder", maps, torch.device("cpu"), lambda *at: seen.append(at)
    ).to_pylist()
    expected = [(0, 3), (1, 3), (2, 3)]
    if pairs == "all":
        expected = [(i, j) for i in range(3) for j in range(i + 1, 4)]
    assert seen == [(n + 1, len(expected)) for n in range(len(expected))]
    of_pair = {
        pair: [row["mapping"] for row in table if (row["source"], row["target"]) == pair]
        for pair in expected
    }
    assert sum(map(len, of_pair.values())) == len(table)
    for pair, mappings in of_pair.items():
        assert mappings == list(names if pair[1] == 3 else names[:3])
    for row in table:
        x, y = (found.held[:, row[end]].double().numpy() for end in ("source", "target"))
        mapping = (
            maps[row["mapping"]](row["source"])
            if row["target"] == 3
            else found.shortcuts.map(row["source"], row["target"], row["mapping"])
        )
        predicted = mapping(torch.from_numpy(x)).numpy()
        assert row["r2"] == pytest.approx(brute_force(x, y, predicted), rel=1e-5)
        assert row["residual_r2"] == pytest.approx(brute_force(x, y - x, predicted - x), rel=1e-5)
        assert row["name"] == f"{row['source']}_{row['target']}" and row["step"] is None


def test_positions_are_grouped_by_their_digits() -> None:
    positions = torch.tensor([0, 5, -2, 1, 7, 8, 2, 3, -1, 0, 4])
    groups = [positions[group].tolist() for group in ranges(positions)]
    assert groups == [[-2, -1], [0, 0], [1], [2, 3], [5, 7, 4], [8]]


def test_r2_by_position_is_that_of_these_rows() -> None:
    model, shortcuts = fitted(tokens="all")
    found = evaluate(shortcuts, model, mappings=["mat"], bootstrap=0, early_exit=False)
    held = shortcuts.validation()
    assert found.positions is not None
    rows = found.positions.to_pylist()
    assert [(row["from"], row["to"]) for row in rows] == 3 * [(0, 0), (1, 1), (2, 3), (4, 7)]
    for row in rows:
        taken = (held.positions >= row["from"]) & (held.positions <= row["to"])
        x, y = held.states[taken, row["source"]], held.states[taken, 3]
        expected = score(x, y, shortcuts.map(row["source"]))
        assert row["n"] == int(taken.sum())
        assert (row["r2"], row["residual_r2"]) == pytest.approx(expected, rel=1e-9)
    assert sum(row["n"] for row in rows) == 3 * len(held)
    one = evaluate(*reversed(fitted()), mappings=["mat"], bootstrap=0, early_exit=False)
    assert one.positions is None

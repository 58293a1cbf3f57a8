"""Sources that are singular, or shrunk by a ridge: one policy for every solver."""

import math

import numpy as np
import pytest
import torch
from shortcuts_cases import SOLVERS, centred, filled, layer_normed, normal, numpys, relative, solved
from torch import Tensor

from pyengine.shortcuts.linear_map import AFFINE, KINDS
from pyengine.shortcuts.solve import RCOND


def singular_cases() -> dict[str, tuple[Tensor, Tensor]]:
    x = layer_normed(60, 8)
    constant, doubled = normal(60, 8).float(), normal(60, 8, seed=1).float()
    constant[:, 2], constant[:, 5] = 0, 7
    doubled[:, 3] = doubled[:, 6]
    y = (normal(60, 8, seed=2) + 1).float()
    return {
        "layer_normed": (x, y),
        "layer_normed_with_affine": (x * torch.linspace(0.2, 3, 8) + torch.linspace(-1, 2, 8), y),
        "fewer_rows_than_coordinates": (normal(5, 8, seed=3).float(), y[:5]),
        "as_many_rows_as_coordinates": (normal(8, 8, seed=4).float(), y[:8]),
        "one_row": (x[:1], y[:1]),
        "constant_columns": (constant, y),
        "equal_columns": (doubled, y),
        "nothing": (torch.zeros(9, 8), y[:9]),
    }


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", singular_cases())
def test_singular_sources_get_the_map_of_least_norm(name: str, kind: str, case: str) -> None:
    x, y = singular_cases()[case]
    values = np.linalg.svd(centred(x, kind).numpy(), compute_uv=False)
    counted = values[values > max(RCOND * values[0], 2**-40 * float(x.norm()))]
    weight, bias = numpys(x, y, kind) if len(counted) else (np.zeros((8, 8)), numpys(x, y, kind)[1])
    source, fitted = solved(filled(name, [x, y], [(0, 1)]), 0, 1, kind)
    assert source.rank == len(counted)
    np.testing.assert_allclose(fitted.weight, weight, rtol=0, atol=1e-6 * (1 + abs(weight).max()))
    if kind == AFFINE:
        np.testing.assert_allclose(fitted.bias, bias, rtol=0, atol=1e-6 * (1 + abs(bias).max()))
    if len(counted):
        assert source.condition == pytest.approx(counted[0] / counted[-1], rel=1e-6)
    else:
        assert math.isnan(source.condition)


def test_layer_normed_sources_lack_one_rank() -> None:
    x = layer_normed(60, 8)
    for name in SOLVERS:
        for kind in KINDS:
            assert solved(filled(name, [x, x], [(0, 1)]), 0, 1, kind)[0].rank == 7
        moved = x + torch.linspace(-1, 2, 8)
        ranks = [solved(filled(name, [moved, x], [(0, 1)]), 0, 1, kind)[0].rank for kind in KINDS]
        assert ranks == [8, 7], "about zero, a hyperplane beside it is not singular"


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("ridge", [1e-3, 2.0, 500.0])
@pytest.mark.parametrize("case", ["regular", "layer_normed", "fewer_rows_than_coordinates"])
def test_a_ridge_is_the_closed_form_and_leaves_the_intercept(
    name: str, ridge: float, case: str
) -> None:
    x, y = singular_cases().get(case, ((normal(60, 8) + 4).float(), normal(60, 8, seed=1).float()))
    for kind in KINDS:
        wide, mean = centred(x, kind), y.double().mean(0) * (kind == AFFINE)
        gram = wide.T @ wide + ridge * torch.eye(8, dtype=torch.float64)
        weight = torch.linalg.solve(gram, wide.T @ (y.double() - mean)).T
        _, fitted = solved(filled(name, [x, y], [(0, 1)]), 0, 1, kind, ridge=ridge)
        assert relative(fitted.weight, weight) < 1e-6
        if kind == AFFINE:
            predicted = x.double() @ fitted.weight.T + fitted.bias
            torch.testing.assert_close(predicted.mean(0), y.double().mean(0), rtol=0, atol=1e-9)


def test_a_ridge_too_small_to_tell_from_nothing_leaves_the_map_of_least_norm() -> None:
    x, y = singular_cases()["equal_columns"]
    for name in SOLVERS:
        for kind in KINDS:
            _, fitted = solved(filled(name, [x, y], [(0, 1)]), 0, 1, kind, ridge=1e-14)
            assert relative(fitted.weight, numpys(x, y, kind)[0]) < 1e-9

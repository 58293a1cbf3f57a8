"""The elastic-net probe: scikit-learn's weights, and no coordinate that could be better."""

from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from packaging.version import Version
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pyengine.heads.neuron_probe import fit_elastic_net

L1, L2 = (3e-2, 1e-2, 1e-3), (1e-3, 1e-2, 1e-3)


def problem(n: int = 120, f: int = 30, c: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standardised features with a column of ones, float64; classes that a few of them tell."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    mixed = common @ torch.randn(5, f, generator=generator, dtype=torch.float64)
    x = 0.5 * mixed + torch.randn(n, f, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, c, generator=generator, dtype=torch.float64)
    targets = (x[:, :c] + 0.5 * noise).argmax(1)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    return torch.cat([x, torch.ones(n, 1, dtype=torch.float64)], 1), targets


def distance_from_optimum(
    x: Tensor, targets: Tensor, weights: Tensor, l1: float, l2: float
) -> float:
    """The largest distance of 0 from the subdifferential of the objective, coordinate by
    coordinate, in NumPy."""
    values, w = x.numpy(), weights.numpy()
    logits = values @ w
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = values.T @ (p - np.eye(w.shape[1])[targets.numpy()]) / len(values)
    worst = float(np.abs(gradient[-1]).max())
    for g, value in zip((gradient[:-1] + 2 * l2 * w[:-1]).flat, w[:-1].flat, strict=True):
        off = abs(g + l1 * np.sign(value)) if value else max(abs(g) - l1, 0)
        worst = max(worst, off)
    return worst


def test_weights_equal_scikit_learns() -> None:
    x, targets = problem()
    fit = fit_elastic_net(x, targets, 3, L1, L2, tolerance=1e-14)
    assert fit.converged.all()
    for i, (l1, l2) in enumerate(zip(L1, L2, strict=True)):
        whole = l1 + 2 * l2
        settings: dict[str, Any] = {"solver": "saga", "tol": 1e-10, "max_iter": 100_000}
        if Version(sklearn.__version__) < Version("1.8"):
            settings["penalty"] = "elasticnet"  # since then l1_ratio says so
        reference = LogisticRegression(l1_ratio=l1 / whole, C=1 / (whole * len(x)), **settings).fit(
            x[:, :-1].numpy(), targets.numpy()
        )
        np.testing.assert_allclose(fit.weights[:-1, i].T, reference.coef_, atol=2e-5)
        zero = reference.coef_ == 0
        assert (fit.weights[:-1, i].T.numpy()[zero] == 0).mean() > 0.99


def test_every_coordinate_is_optimal_beyond_the_first_working_set() -> None:
    x, targets = problem(80, 700)
    fit = fit_elastic_net(x, targets, 3, L1, L2, tolerance=1e-14)
    for i, (l1, l2) in enumerate(zip(L1, L2, strict=True)):
        worst = distance_from_optimum(x, targets, fit.weights[:, i], l1, l2)
        assert worst < 0.02 * l1
        assert float(fit.violation[i]) == pytest.approx(worst, rel=1e-6, abs=1e-12)
    dense = fit_elastic_net(x, targets, 3, [0.0], [1e-2], tolerance=1e-14)
    assert (dense.weights != 0).all()
    assert distance_from_optimum(x, targets, dense.weights[:, 0], 0, 1e-2) < 1e-5


def test_probes_side_by_side_are_those_alone() -> None:
    x, targets = problem()
    both = fit_elastic_net(x, targets, 3, L1, L2, tolerance=1e-12)
    for i in range(len(L1)):
        alone = fit_elastic_net(x, targets, 3, L1[i : i + 1], L2[i : i + 1], tolerance=1e-12)
        torch.testing.assert_close(both.weights[:, i], alone.weights[:, 0], atol=1e-6, rtol=0)
    again = fit_elastic_net(x, targets, 3, L1, L2, tolerance=1e-12)
    assert torch.equal(both.weights, again.weights)


def test_single_precision_finds_the_same_objective() -> None:
    x, targets = problem()
    exact = fit_elastic_net(x, targets, 3, L1, L2, tolerance=1e-14)
    usual = fit_elastic_net(x.float(), targets, 3, L1, L2)
    assert usual.converged.all() and usual.weights.dtype == torch.float32
    torch.testing.assert_close(usual.objective, exact.objective, rtol=1e-4, atol=0)


def test_a_large_penalty_leaves_the_bias_alone() -> None:
    x, targets = problem()
    fit = fit_elastic_net(x, targets, 3, [5.0], [0.0], tolerance=1e-14)
    assert (fit.weights[:-1] == 0).all()
    shares = torch.bincount(targets) / len(targets)
    torch.testing.assert_close(fit.weights[-1, 0].softmax(0), shares.double(), atol=1e-6, rtol=0)


def test_too_few_steps_are_told() -> None:
    x, targets = problem()
    fit = fit_elastic_net(x, targets, 3, L1, L2, tolerance=1e-14, max_steps=20)
    assert not fit.converged.all()
    assert (fit.violation > 1e-6).any()

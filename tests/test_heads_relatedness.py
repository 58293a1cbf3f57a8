"""Scores: soft labels, Pearson's correlation, and the whole regression as SentEval's."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from senteval_procedure import relatedness, two_points

from pyengine.heads.probe.features import features
from pyengine.heads.probe.goals import SoftLabels, soft_labels
from pyengine.heads.probe.relatedness import probe_scores
from pyengine.heads.probe_settings import RELATEDNESS


def test_soft_labels_of_the_spec() -> None:
    found = soft_labels(np.array([3.6, 5.0, 0.4, 0.0, 1.0]), 5)
    assert found.dtype == np.float32
    expected = [(0, 0, 0.4, 0.6, 0), (0, 0, 0, 0, 1), (0.4, 0, 0, 0, 0), (0,) * 5, (1, 0, 0, 0, 0)]
    np.testing.assert_allclose(found, np.array(expected), atol=1e-7)
    # From 1 on the expectation gives the score back.
    np.testing.assert_allclose(found[[0, 1, 4]] @ np.arange(1, 6), [3.6, 5, 1], atol=1e-6)
    scores = np.random.default_rng(0).uniform(0, 5, 300)
    np.testing.assert_allclose(soft_labels(scores, 5), two_points(scores, 5), atol=1e-6)


def test_scores_of_predictions() -> None:
    """SciPy's Pearson on the examples asked for; 0, not NaN, for a probe that always says one."""
    rng = np.random.default_rng(1)
    scores, said = rng.uniform(0, 5, 50), rng.normal(size=(3, 2, 20))
    said[1, 0] = 0.1
    goal, index = SoftLabels(scores, 5, torch.device("cpu")), rng.permutation(50)[:20]
    found = goal.score(torch.from_numpy(said), torch.from_numpy(index))
    assert found.shape == (3, 2) and found[1, 0] == 0
    for head, probe in np.ndindex(3, 2):
        if (head, probe) != (1, 0):
            expected = float(pearsonr(said[head, probe], scores[index])[0])
            assert found[head, probe] == pytest.approx(expected, abs=1e-12)
    constant = SoftLabels(np.full(50, 3.0), 5, torch.device("cpu"))
    assert (constant.score(torch.from_numpy(said), torch.from_numpy(index)) == 0).all()


def test_gradient_is_that_of_autograd() -> None:
    scores = np.array([0.4, 2.5, 4.2, 5.0])
    goal = SoftLabels(scores, 5, torch.device("cpu"))
    logits = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    wanted = logits.clone().requires_grad_()
    labels = torch.from_numpy(two_points(scores, 5)).T
    loss = sum(
        torch.nn.functional.mse_loss(torch.softmax(wanted[head, 0], 0), labels) for head in (0, 1)
    )
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert wanted.grad is not None
    found = goal.gradient(logits.clone(), torch.arange(4)) / 4
    torch.testing.assert_close(found, wanted.grad, atol=1e-7, rtol=1e-5)


@pytest.mark.slow
def test_the_regression_is_that_of_the_procedure() -> None:
    rng = np.random.default_rng(2)
    n, n_heads, width = 60, 3, 4
    x = rng.normal(size=(2 * n, n_heads, width)).astype(np.float32)
    rows = np.arange(2 * n).reshape(n, 2)
    inputs = features(x, rows).numpy()
    assert inputs.shape == (n, n_heads, 2 * width)
    scores = np.clip(2.5 + inputs[:, :2, 0].sum(1) + 0.5 * rng.normal(size=n), 0, 5)
    ends = {"train": slice(0, 40), "dev": slice(40, 50), "test": slice(50, 60)}
    parts = {name: (rows[at], scores[at]) for name, at in ends.items()}
    done: list[tuple[int, int]] = []
    found = probe_scores(x, parts, on_progress=lambda *at: done.append(at))
    assert done[-1] == (3, 3) and found.weights is not None and found.bias is not None
    for head in range(n_heads):
        own = {name: (inputs[at, head].copy(), scores[at]) for name, at in ends.items()}
        dev, said, looks, weights = relatedness(
            own["train"], own["dev"], own["test"][0], RELATEDNESS.seed
        )
        assert found.dev[head] == pytest.approx(dev, abs=1e-5)
        assert found.epochs[head] == 50 * looks
        np.testing.assert_allclose(found.predictions[:, head], said, atol=1e-4)
        assert found.test[head] == pytest.approx(float(pearsonr(said, scores[50:])[0]), abs=1e-4)
        mine = torch.cat([found.weights[head], found.bias[head][:, None]], dim=1)
        torch.testing.assert_close(mine, weights, atol=1e-5, rtol=0)
    assert (found.regulariser == 0).all()

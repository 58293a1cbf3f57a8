"""SentEval's protocols around its classifier, one fit after the other, and its regression.

The classifier itself is benchmarks/_heads_procedure.py. Nothing here shares code with
pyengine.heads.probe.
"""

import copy
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from benchmarks._heads_procedure import Data, Result, accuracy, fit
from pyengine.heads.probe_settings import ProbeSettings

INNER_SEED = 1111


def k_fold(train: Data, test: Data, n_classes: int, settings: ProbeSettings) -> Result:
    """Choose the regulariser by cross-validation; train again with it, and test that."""
    decay, dev = _cross_validated(train, n_classes, settings, settings.seed)
    found = fit(train, None, n_classes, decay, settings)
    return Result(decay, dev, round(100 * accuracy(found.model, *test), 2))


def inner_k_fold(data: Data, n_classes: int, settings: ProbeSettings) -> tuple[Result, list[float]]:
    """Do that for every fold but one, and test on the one; return the regularisers as well."""
    x, y = data
    devs, tests, decays = [], [], []
    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=INNER_SEED)
    for train, test in folds.split(x, y):
        decay, dev = _cross_validated((x[train], y[train]), n_classes, settings, INNER_SEED)
        found = fit((x[train], y[train]), None, n_classes, decay, settings)
        decays.append(decay)
        devs.append(dev)
        tests.append(round(100 * accuracy(found.model, x[test], y[test]), 2))
    dev, tested = (float(round(np.mean(scores), 2)) for scores in (devs, tests))
    return Result(decays[-1], dev, tested), decays


def _cross_validated(
    data: Data, n_classes: int, settings: ProbeSettings, seed: int
) -> tuple[float, float]:
    (x, y), scores = data, []
    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=seed)
    for decay in settings.regularisers:
        found = []
        for train, test in folds.split(x, y):
            held_out = x[test], y[test]
            model = fit((x[train], y[train]), held_out, n_classes, decay, settings).model
            found.append(accuracy(model, *held_out))
        scores.append(round(100 * np.mean(found), 2))
    return settings.regularisers[int(np.argmax(scores))], float(max(scores))


def relatedness(
    train: Data, dev: Data, test: np.ndarray, seed: int, n_scores: int = 5
) -> tuple[float, np.ndarray, int, Tensor]:
    """Train a softmax onto two-point labels; return dev Pearson, test scores, looks, weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(train[0].shape[1], n_scores)
    rng, model = np.random.RandomState(seed), nn.Sequential(linear, nn.Softmax(dim=-1))
    optimizer: Any = torch.optim.Adam(model.parameters())
    inputs, labels = torch.from_numpy(train[0]), torch.from_numpy(two_points(train[1], n_scores))
    best, best_model, misses, n_epochs, looks = -1.0, model, 0, 0, 0
    while n_epochs <= 1000:
        for _ in range(50):
            order = rng.permutation(len(inputs))
            for begin in range(0, len(inputs), 64):
                index = torch.from_numpy(order[begin : begin + 64])
                optimizer.zero_grad()
                nn.MSELoss()(model(inputs[index]), labels[index]).backward()
                optimizer.step()
        n_epochs, looks = n_epochs + 50, looks + 1
        found = pearsonr(expected(model, dev[0], n_scores), dev[1])[0]
        found = 0 if found != found else found
        if found > best:
            best, best_model = found, copy.deepcopy(model)
        elif misses >= 3:
            break
        else:
            misses += 1
    weights = torch.cat([p.detach().view(n_scores, -1) for p in best_model.parameters()], dim=1)
    return best, expected(best_model, test, n_scores), looks, weights


def two_points(scores: np.ndarray, n_scores: int) -> np.ndarray:
    """Spread each score over the two whole ones around it."""
    found = np.zeros((len(scores), n_scores), np.float32)
    for row, score in enumerate(scores):
        below = int(np.floor(score))
        for place in range(n_scores):
            if place + 1 == below + 1:
                found[row, place] = score - below
            if place + 1 == below:
                found[row, place] = below - score + 1
    return found


def expected(model: nn.Sequential, x: np.ndarray, n_scores: int) -> np.ndarray:
    """Return the scores that a softmax expects."""
    with torch.no_grad():
        return np.dot(model(torch.from_numpy(x)).numpy(), np.arange(1, n_scores + 1))

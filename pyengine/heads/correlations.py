"""Correlations of predicted scores with given ones."""

import numpy as np


def pearson(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each column with the targets; 0 for one that is constant.

    Args:
        predicted: float [n, H].
        targets: float [n].

    Returns:
        float64 [H].
    """
    x = predicted.astype(np.float64)
    constant = (x == x[:1]).all(0)
    x = x - x.mean(0)
    y = targets.astype(np.float64) - targets.mean()
    norms = np.sqrt((x * x).sum(0) * (y * y).sum())
    return np.divide(y @ x, norms, out=np.zeros(x.shape[1]), where=~constant & (norms > 0))


def spearman(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each column with the targets: Pearson's of the ranks.

    Equal values share the mean of their ranks. Shapes as `pearson`'s.
    """
    ranked = np.stack([ranks(column) for column in predicted.T], axis=1)
    return pearson(ranked, ranks(targets))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values from 0 on, float64 [n]; equal values share their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[places]

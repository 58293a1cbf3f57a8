"""Stratified folds: those of scikit-learn's StratifiedKFold, shuffled, from version 0.22 on."""

from collections.abc import Iterator

import numpy as np

from pyengine.errors import PyengineError


def stratified_folds(
    classes: np.ndarray, n_folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield train and test indices, both ascending, of every fold.

    Every class is spread over the folds as evenly as it goes: round robin through all examples
    sorted by class, the classes in the order in which they first occur; which of its examples go
    where is shuffled, class after class, by one NumPy RandomState.

    Args:
        classes: int [n].
        n_folds: at least 2.
        seed: of the RandomState.

    Raises:
        PyengineError: where no class has as many examples as there are folds.
    """
    first, inverse = np.unique(classes, return_index=True, return_inverse=True)[1:]
    in_order = first.argsort().argsort()[inverse]  # classes numbered as they first occur
    counts = np.bincount(in_order)
    if counts.max() < n_folds:
        raise PyengineError(
            f"{n_folds} folds need a class of at least {n_folds} examples, and the most frequent "
            f"one has {counts.max()}: lower `folds`"
        )
    ordered = np.sort(in_order)
    shares = [np.bincount(ordered[k::n_folds], minlength=len(counts)) for k in range(n_folds)]
    random, fold = np.random.RandomState(seed), np.empty(len(classes), np.int64)
    for cls, share in enumerate(np.stack(shares, axis=1)):
        folds = np.repeat(np.arange(n_folds), share)
        random.shuffle(folds)
        fold[in_order == cls] = folds
    for k in range(n_folds):
        yield (fold != k).nonzero()[0], (fold == k).nonzero()[0]

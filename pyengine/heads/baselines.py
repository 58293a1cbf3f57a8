"""What is reached without knowing anything, and whether a probe knows more."""

import numpy as np

from pyengine.heads.bank_tasks import BankTask
from pyengine.heads.task import CLASSES, INNER_K_FOLD


def rounded(share: float) -> float:
    """Return a share as SentEval writes an accuracy: in percent, two decimals.

    By Python's rounding; NumPy's differs where 100 · share lies halfway.
    """
    return round(100 * float(share), 2)


def majority(task: BankTask) -> float:
    """Return the accuracy on test of always answering the class most frequent in train.

    Ties: the first class. Where all examples are used by nested cross-validation they are both
    train and test. NaN where scores are told, whose correlation with a constant is undefined.
    """
    if task.kind != CLASSES:
        return np.nan
    train, test = _targets(task, "train"), tested(task)
    most = np.bincount(train, minlength=len(task.labels)).argmax()
    return rounded((test == most).mean())


def chance(task: BankTask) -> float:
    """Return the expected accuracy of guessing evenly among the classes; NaN for scores."""
    return rounded(1 / len(task.labels)) if task.kind == CLASSES else np.nan


def tested(task: BankTask) -> np.ndarray:
    """Return the targets of the examples that predictions are made for, in order."""
    return _targets(task, "test")


def collapsed(predictions: np.ndarray, test: np.ndarray, share: float) -> np.ndarray:
    """Tell which probes tell nothing apart.

    One has collapsed if all its predictions on test are the same, if one is NaN, or if its accuracy
    there, rounded to two decimals of a percent, is exactly that of the majority class.

    Args:
        predictions: [n_test, H], classes or scores.
        test: float64 [H], the probes' scores.
        share: `majority`; NaN for scores.

    Returns:
        bool [H].
    """
    same = (predictions == predictions[:1]).all(0)
    return same | np.isnan(predictions).any(0) | (np.round(test, 2) == share)


def _targets(task: BankTask, part: str) -> np.ndarray:
    return task.parts["all" if task.protocol == INNER_K_FOLD else part].targets

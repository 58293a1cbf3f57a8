"""Stratified folds are scikit-learn's."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from pyengine.errors import PyengineError
from pyengine.heads.probe.folds import stratified_folds


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 10),
    st.lists(st.integers(1, 23), min_size=1, max_size=7),
)
def test_folds_are_those_of_scikit_learn(seed: int, n_folds: int, counts: list[int]) -> None:
    counts = [*counts, n_folds + 3]  # one class is large enough
    rng = np.random.default_rng(seed)
    # Names of classes neither dense nor in the order in which they occur.
    classes = rng.permutation(np.repeat(rng.permutation(len(counts)) * 3 + 1, counts))
    theirs = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes smaller than the number of folds
        expected = [*theirs.split(classes, classes)]
    found = [*stratified_folds(classes, n_folds, seed)]
    assert len(found) == n_folds
    for ours, wanted in zip(found, expected, strict=True):
        assert all((a == b).all() for a, b in zip(ours, wanted, strict=True))


def test_every_example_is_tested_once_and_classes_are_spread() -> None:
    classes = np.array([0] * 10 + [1] * 7 + [2] * 3)
    tested = np.zeros(20, int)
    for train, test in stratified_folds(classes, 5, 1111):
        assert not {*train} & {*test} and len(train) + len(test) == 20 and len(test) == 4
        assert (classes[test] == 0).sum() == 2 and (classes[test] == 1).sum() in (1, 2)
        tested[test] += 1
    assert (tested == 1).all()


def test_too_few_examples_for_so_many_folds() -> None:
    with pytest.raises(PyengineError, match=r"5 folds need a class of at least 5 examples.*has 4"):
        [*stratified_folds(np.array([0, 0, 0, 0, 1, 1]), 5, 1)]

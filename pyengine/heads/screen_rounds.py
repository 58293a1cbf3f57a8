"""Which examples closed-form probes are fitted to, chosen on and tested on, as disjoint blocks."""

from typing import NamedTuple

import numpy as np

from pyengine.errors import PyengineError
from pyengine.heads.probe.folds import stratified_folds
from pyengine.heads.probe.protocols import Parts
from pyengine.heads.task import INNER_K_FOLD, K_FOLD, SPLIT

LEAST_NESTED = 3  # folds: one to fit, one to choose on, one to test on


class Fit(NamedTuple):
    """Names of the blocks to fit, and of the one to score."""

    train: tuple[str, ...]
    test: str


class Round(NamedTuple):
    """A strength chosen on the mean of some fits, then one final fit.

    Attributes:
        fits: to choose by.
        final: to test.
        places: of the examples that `final` tests, in the part they come from.
    """

    fits: list[Fit]
    final: Fit
    places: np.ndarray


def rounds_of(
    parts: Parts, protocol: str, folds: int, seed: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[Round]]:
    """Cut a task into disjoint blocks, and say what is done with them.

    Sums over several blocks are sums of theirs, so that every example is summed up once.

    Returns:
        Rows and targets of each block; the rounds, one but for nested folds.
    """
    return _ROUNDS[protocol](parts, folds, seed)


def _split(parts: Parts, folds: int, seed: int) -> tuple[dict, list[Round]]:
    one = Round([Fit(("train",), "dev")], Fit(("train",), "test"), _places(parts["test"]))
    return dict(parts), [one]


def _k_fold(parts: Parts, folds: int, seed: int) -> tuple[dict, list[Round]]:
    blocks, _ = _folded(parts["train"], folds, seed)
    names = tuple(blocks)
    fits = [Fit(_without(names, name), name) for name in names]
    one = Round(fits, Fit(names, "test"), _places(parts["test"]))
    return {**blocks, "test": parts["test"]}, [one]


def _inner_k_fold(parts: Parts, folds: int, seed: int) -> tuple[dict, list[Round]]:
    if folds < LEAST_NESTED:
        raise PyengineError(f"closed-form probes need folds >= {LEAST_NESTED} here, got {folds}")
    blocks, places = _folded(parts["all"], folds, seed)
    names = tuple(blocks)
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    rounds = [
        Round(
            [Fit(_without(names, name, following[name]), following[name])],
            Fit(_without(names, name), name),
            places[name],
        )
        for name in names
    ]
    return blocks, rounds


_ROUNDS = {SPLIT: _split, K_FOLD: _k_fold, INNER_K_FOLD: _inner_k_fold}


def _folded(
    part: tuple[np.ndarray, np.ndarray], folds: int, seed: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray]]:
    rows, targets = part
    places = {
        f"fold {k}": test for k, (_, test) in enumerate(stratified_folds(targets, folds, seed))
    }
    return {name: (rows[at], targets[at]) for name, at in places.items()}, places


def _without(names: tuple[str, ...], *left_out: str) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)


def _places(part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.arange(len(part[0]))

"""Heads together: where tasks are solved, by how many heads, and how alike tasks are."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pyengine.heads.correlations import ranks
from pyengine.heads.task_names import canonical_name

# Conneau et al. 2018; every other task stands for itself.
GROUPS = {
    "surface": ("Length", "WordContent"),
    "syntactic": ("Depth", "TopConstituents", "BigramShift"),
    "semantic": ("Tense", "SubjNumber", "ObjNumber", "OddManOut", "CoordinationInversion"),
}
_GROUP_OF = {task: group for group, tasks in GROUPS.items() for task in tasks}


class Profile(NamedTuple):
    """How well a group's tasks are solved at each depth, from 0 (worst layer) to 1 (best).

    Attributes:
        best: float64 [layers], by the best head of each layer.
        mean: float64 [layers], by the mean over its heads.
        tasks: whose profiles were averaged.
    """

    best: np.ndarray
    mean: np.ndarray
    tasks: tuple[str, ...]


class Focus(NamedTuple):
    """How the gain of a task is spread over heads.

    Attributes:
        heads: float64 [n + 1], shares of the heads, from 0 to 1, the best first.
        gain: float64 [n + 1], their share of the gain of all heads.
        gini: 0 where all heads gain the same, towards 1 where one head has all of the gain; NaN
            where no head gains anything.
    """

    heads: np.ndarray
    gain: np.ndarray
    gini: float


def group_of(task: str) -> str:
    """Return `surface`, `syntactic` or `semantic`, or the name of a task of no such group.

    Tasks of SentEval go by any of their names, `sentence_length` as well as `Length`.
    """
    return _GROUP_OF.get(canonical_name(task) or task, task)


def by_group(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Sort tasks into groups: surface, syntactic, semantic, then the others in their own order."""
    order = [*_GROUP_OF]
    known = [task for task in tasks if group_of(task) in GROUPS]
    known.sort(key=lambda task: order.index(canonical_name(task) or task))
    found: dict[str, list[str]] = {}
    for task in [*known, *(task for task in tasks if task not in known)]:
        found.setdefault(group_of(task), []).append(task)
    return found


def best_of_layers(scores: np.ndarray) -> np.ndarray:
    """Return [layers], the highest of [layers, heads]; NaN for a layer without scores."""
    highest = np.where(np.isnan(scores), -np.inf, scores).max(1)
    return np.where(np.isinf(highest), np.nan, highest)


def mean_of_layers(scores: np.ndarray) -> np.ndarray:
    """Return [layers], the mean of [layers, heads] without NaN; NaN for a layer without scores."""
    counts = np.count_nonzero(~np.isnan(scores), axis=1)
    return np.where(counts > 0, np.nansum(scores, 1) / np.maximum(counts, 1), np.nan)


def depth_profiles(scores: Mapping[str, np.ndarray]) -> dict[str, Profile]:
    """Say at which depth each group of tasks is solved.

    A task's profile is brought to 0 … 1 (lowest layer to highest) before profiles are averaged, so
    that a task of 1000 classes counts as much as one of two. A task whose layers are all equal has
    no profile and does not count.

    Args:
        scores: [layers, heads] for each task, NaN where there is none.

    Returns:
        By group; of groups without any profile, nothing.
    """
    found = {}
    for group, tasks in by_group([*scores]).items():
        best = {task: _to_unit(best_of_layers(scores[task])) for task in tasks}
        mean = {task: _to_unit(mean_of_layers(scores[task])) for task in tasks}
        known = tuple(task for task in tasks if not np.isnan(best[task]).all())
        if known:
            rows = [np.array([of[task] for task in known]).T for of in (best, mean)]
            found[group] = Profile(mean_of_layers(rows[0]), mean_of_layers(rows[1]), known)
    return found


def focus(scores: np.ndarray, baseline: float) -> Focus:
    """Say whether a task is solved by a few heads or by all.

    A head's gain is max(0, score - baseline). Heads are sorted by it, the best first, their gains
    added up, and both axes divided by their ends: a Lorenz curve. A task that every head solves
    alike follows the diagonal; one that a single head solves jumps to 1 at once.

    Args:
        scores: any shape, NaN where there is none.
        baseline: the score of knowing nothing: the largest class, or 0 for a correlation.
    """
    gains = np.sort(np.maximum(_known(scores) - baseline, 0))[::-1]
    heads = np.linspace(0, 1, gains.size + 1)
    total = gains.sum()
    if not total > 0:
        return Focus(heads, np.full(gains.size + 1, np.nan), float("nan"))
    gain = np.concatenate([[0], np.cumsum(gains) / total])
    return Focus(heads, gain, float((gain[1:] + gain[:-1]).mean() - 1))


def share_within(scores: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return the share of heads whose score is at most so far below the best; float64, NaN-free.

    Args:
        scores: any shape, NaN (left out) where there is none; at least one is a number.
        distances: of any shape, in the scores' unit.
    """
    known = _known(scores)
    behind = np.sort(known.max() - known)
    return np.searchsorted(behind, distances, side="right") / known.size


def similarity(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Correlate the heads' scores between tasks: do the same heads do well?

    Returns:
        float64 [tasks, tasks], Spearman's rank correlations (ties get their mean rank) over the
        heads that both tasks have scores for; NaN where one of the two is the same for all heads.
    """
    flat = [np.ravel(of_task) for of_task in scores.values()]
    return np.array([[_spearman(first, second) for second in flat] for first in flat])


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    both = ~np.isnan(first) & ~np.isnan(second)
    x, y = (ranks(values[both]) for values in (first, second))
    x, y = x - x.mean() if x.size else x, y - y.mean() if y.size else y
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else float("nan")


def _to_unit(values: np.ndarray) -> np.ndarray:
    known = _known(values)
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    return (values - low) / (high - low) if high > low else np.full_like(values, np.nan)


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]

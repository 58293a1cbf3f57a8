"""The best head, or layer, of each location for each task, beside what it must beat."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from pyengine.heads.places import LOCATIONS, WITH_HEADS
from pyengine.heads.results import HeadResults

# Numbers of a row of the table of results that stand beside a best score.
BESIDE = ("majority", "chance")


def bests(results: HeadResults, tasks: Iterable[str]) -> list[dict[str, Any]]:
    """Return one row per task and location that was probed; null: none, or not asked for.

    A row has task, location, whole (all heads of a layer together), metric; of the best on dev
    layer, head, dev, test and selectivity; mean, of test over all, n and n_collapsed of them; and
    majority and chance.

    Args:
        results: made alike.
        tasks: names.
    """
    found = []
    for task in tasks:
        results.where(task=task)  # refused where there are none
        for location in LOCATIONS:
            found += [
                _best(results, task, location, whole)
                for whole in ((False, True) if location in WITH_HEADS else (True,))
                if results.has(task, location, whole)
            ]
    return found


def _best(results: HeadResults, task: str, location: str, whole: bool) -> dict[str, Any]:
    def scores(part: str) -> np.ndarray:
        return results.scores(task, location, part, whole=whole)

    layer, head = results.ranked(task, 1, location, whole=whole)[0]
    test, collapsed = scores("test"), scores("collapsed")
    return {
        "task": task,
        "location": location,
        "whole": whole,
        "metric": results.metric(task),
        "layer": layer,
        "head": None if whole else head,
        **{name: _known(scores(name)[layer, head]) for name in ("dev", "test", "selectivity")},
        "mean": float(np.nanmean(test)),
        "n": int(np.isfinite(test).sum()),
        "n_collapsed": int((collapsed > 0).sum()),
        **{name: _known(scores(name)[layer, head]) for name in BESIDE},
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

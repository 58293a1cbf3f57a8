"""What heads are worth together: the curve over n of the results in concats.parquet."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pyengine.errors import PyengineError
from pyengine.heads.result_rows import ALIKE
from pyengine.heads.results_table import MAIN_METRICS


class Point(NamedTuple):
    """The n best heads together; means over seeds, `dev` NaN where there is no dev set."""

    n: int
    width: int
    dev: float
    test: float
    heads: tuple[tuple[int, int], ...]


def curve(table: pa.Table, task: str) -> list[Point]:
    """Return what the n best heads score, by n; accuracies, or Pearson's correlations.

    Args:
        table: rows of `results_table.CONCATS`.
        task: the task's name.

    Raises:
        PyengineError: if the table has no row of the task, or some that were not made alike.
    """
    rows = [r for r in table.to_pylist() if r["task"] == task and r["metric"] in MAIN_METRICS]
    if not rows:
        raise PyengineError(f"no heads were concatenated for {task}: run pyengine heads concat")
    for name in (*ALIKE, "location"):
        if len(made := sorted({row[name] for row in rows})) > 1:
            raise PyengineError(
                f"heads were concatenated for {task} with several {name}s: {made}; choose one, as "
                f".where({name}={made[0]!r})"
            )
    found = []
    for n in sorted({row["n"] for row in rows}):
        own = [row for row in rows if row["n"] == n]
        dev, test = (float(np.mean([row[part] for row in own])) for part in ("dev", "test"))
        heads = tuple((one["layer"], one["head"]) for one in own[0]["heads"])
        found.append(Point(n, own[0]["width"], dev, test, heads))
    return found


def best(points: list[Point]) -> Point:
    """Return the point that is best on dev, or on test where there is no dev; ties: the lower n."""
    part = "test" if all(np.isnan(point.dev) for point in points) else "dev"
    return max(points, key=lambda point: (getattr(point, part), -point.n))

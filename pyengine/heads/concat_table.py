"""What heads are worth together: the curve over n of the results in concats.parquet."""

from collections.abc import Iterable
from typing import Any, NamedTuple

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
        PyengineError: if the table has no row of the task, or some that were not made alike, or
            that hold other heads.
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
    check_heads(rows)
    found = []
    for n in sorted({row["n"] for row in rows}):
        own = [row for row in rows if row["n"] == n]
        dev, test = (float(np.mean([row[part] for row in own])) for part in ("dev", "test"))
        heads = tuple((one["layer"], one["head"]) for one in own[0]["heads"])
        found.append(Point(n, own[0]["width"], dev, test, heads))
    return found


def check_heads(rows: Iterable[dict[str, Any]]) -> None:
    """Refuse to average over the n best heads of two rankings: one came of more seeds.

    Raises:
        PyengineError: if rows of one task and n hold other heads.
    """
    found: dict[tuple[str, int], dict[tuple[Any, ...], set[int]]] = {}
    for row in rows:
        heads = tuple((one["layer"], one["head"]) for one in row["heads"])
        seeds = found.setdefault((row["task"], row["n"]), {}).setdefault(heads, set())
        seeds.add(row["seed"])
    for (task, n), rankings in found.items():
        if len(rankings) > 1:
            of = sorted(set[int]().union(*rankings.values()))
            raise PyengineError(
                f"{task}: the {n} best heads are others for some of the seeds {of}, since they "
                "have been ranked anew; run pyengine heads concat again for each of them"
            )


def best(points: list[Point]) -> Point:
    """Return the point that is best on dev, or on test where there is no dev; ties: the lower n."""
    part = "test" if all(np.isnan(point.dev) for point in points) else "dev"
    return max(points, key=lambda point: (getattr(point, part), -point.n))

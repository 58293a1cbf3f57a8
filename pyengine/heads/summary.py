"""The paper's table: what the last layer, the best one, and the best heads together score."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyengine.heads.concat_table import check_heads
from pyengine.heads.places import BLOCK, HEAD
from pyengine.heads.probe_choice import COSINE, LOGISTIC
from pyengine.heads.result_rows import ALIKE
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import MAIN_METRICS

PROBE, CONCAT = "pyengine heads probe BANK", "pyengine heads concat BANK"

# Scores are means over seeds; null: not probed.
SUMMARY = pa.schema(
    [
        *((name, pa.string()) for name in (*ALIKE, "task", "metric")),
        ("chosen_on", pa.string()),  # dev; test where there is no dev set
        ("layers", pa.string()),  # location of the layers: block; head where none was probed
        ("last_layer", pa.int32()),
        ("last_test", pa.float64()),
        ("best_layer", pa.int32()),
        ("best_layer_dev", pa.float64()),
        ("best_layer_test", pa.float64()),
        ("head_layer", pa.int32()),
        ("head", pa.int32()),
        ("head_dev", pa.float64()),
        ("head_test", pa.float64()),
        ("mean_test", pa.float64()),  # over all heads
        ("n_heads", pa.int32()),  # that were probed
        ("n_collapsed", pa.int32()),  # of them, with any seed
        ("n", pa.int32()),  # heads whose widths add up to the model's
        ("n_best_dev", pa.float64()),
        ("n_best_test", pa.float64()),
        ("majority", pa.float64()),
        ("chance", pa.float64()),
    ]
)


def summarise(results: HeadResults) -> pa.Table:
    """Return one row per task and way it was probed (model, bank, probe, settings), `SUMMARY`.

    The last layer, the layer that is best on dev, the best head, and the n best heads concatenated,
    where n heads are as wide as the model (its block outputs where these were probed, else one
    layer's heads). Null where something was not probed.
    """
    ways = results.table.select([*ALIKE, "task"]).group_by([*ALIKE, "task"]).aggregate([])
    rows = sorted(ways.to_pylist(), key=lambda row: [row[name] for name in (*ALIKE, "task")])
    return pa.Table.from_pylist([_row(results.where(**way), way) for way in rows], SUMMARY)


def _row(own: HeadResults, way: dict[str, Any]) -> dict[str, Any]:
    task, table = way["task"], own.table
    main = table.filter(pc.is_in(table["metric"], pa.array(MAIN_METRICS)))
    first = main.slice(0, 1).to_pylist()[0]
    found = {name: first[name] for name in ("metric", "majority", "chance")}
    found["chosen_on"] = "test" if np.isnan(main["dev"].to_numpy()).all() else "dev"
    parts = {name: value for part in _parts(own, task) for name, value in part.items()}
    return way | found | parts | _n_best(own, main)


def _parts(own: HeadResults, task: str) -> Iterator[dict[str, Any]]:
    if own.has(task, HEAD):
        yield _best_head(own, task)
    for location in (BLOCK, HEAD):
        if own.has(task, location, whole=True):
            yield _layers(own, task, location)
            return


def _best_head(own: HeadResults, task: str) -> dict[str, Any]:
    layer, head = own.ranked(task, 1)[0]
    dev, test = own.scores(task), own.scores(task, part="test")
    flags = own.scores(task, part="collapsed")
    return {
        "head_layer": layer,
        "head": head,
        "head_dev": dev[layer, head],
        "head_test": test[layer, head],
        "mean_test": np.nanmean(test),
        "n_heads": np.isfinite(test).sum(),
        "n_collapsed": (flags > 0).sum(),
    }


def _layers(own: HeadResults, task: str, location: str) -> dict[str, Any]:
    last, best = own.last_layer(task, location), own.best_layer(task, location)
    return {
        "layers": location,
        "last_layer": last.layer,
        "last_test": last.test,
        "best_layer": best.layer,
        "best_layer_dev": best.dev,
        "best_layer_test": best.test,
    }


def _n_best(own: HeadResults, main: pa.Table) -> dict[str, Any]:
    n = n_best(main)
    concats = own.concats.filter(pc.equal(own.concats["location"], HEAD))
    concats = concats.filter(pc.is_in(concats["metric"], pa.array(MAIN_METRICS)))
    if n is not None:
        concats = concats.filter(pc.equal(concats["n"], n))
    found: dict[str, Any] = {"n": n}
    if n is not None and concats.num_rows:
        check_heads(concats.select(["task", "n", "seed", "heads"]).to_pylist())
        found |= {f"n_best_{part}": pc.mean(concats[part]).as_py() for part in ("dev", "test")}
    return found


def n_best(table: pa.Table) -> int | None:
    """Return how many heads are as wide as the model together; None where no head was probed.

    Args:
        table: rows of results of one bank.
    """
    rows = table.select(["location", "layer", "head", "width"]).to_pylist()
    heads = [row for row in rows if row["location"] == HEAD and row["head"] >= 0]
    if not heads:
        return None
    blocks = [row["width"] for row in rows if row["location"] == BLOCK]
    width = heads[0]["width"]
    whole = blocks[0] if blocks else width * (1 + max(row["head"] for row in heads))
    return max(1, whole // width)


def missing(rows: list[dict[str, Any]], folder: object) -> list[str]:
    """Name what rows of the summary lack, each with the command that makes it."""
    lacks: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for what, command in _lacks(row, folder):
            lacks.setdefault((what, command), []).append(row["task"])
    return [
        f"no {what} of {', '.join(tasks)}: {command} {_options(command, tasks)}"
        for (what, command), tasks in lacks.items()
    ]


def _lacks(row: dict[str, Any], folder: object) -> Iterator[tuple[str, str]]:
    with_probe = "" if row["probe"] in (LOGISTIC, COSINE) else f" --probe {row['probe']}"
    if row["head"] is None:
        yield "heads", f"{PROBE} --out {folder}{with_probe} --location {HEAD}"
    if row["layers"] is None:
        yield "layers", f"{PROBE} --out {folder}{with_probe} --location {BLOCK}"
    if row["n"] is not None and row["n_best_test"] is None:
        what = f"{row['n']} best heads together"
        yield what, f"{CONCAT} {folder}{with_probe} --n {row['n']}"


def _options(command: str, tasks: list[str]) -> str:
    """Name the tasks; `concat` takes one at a time."""
    if command.startswith(PROBE):
        return " ".join(f"--task {task}" for task in tasks)
    return f"--task {tasks[0]}" + (", and so for each" if len(tasks) > 1 else "")

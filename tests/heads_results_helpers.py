"""Results of probes as tests make them up: a table of numbers, no model, no probe."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.heads.results_table import CONCATS, PROBES, TableFile, append

N_LAYERS, N_HEADS, WIDTH = 3, 4, 2
TASKS = ("TREC", "SST2")


def row(**columns: Any) -> dict[str, Any]:
    """Return a row of results, with some columns as given."""
    usual: dict[str, Any] = {
        **{"model": "tiny", "task": "TREC", "location": "head", "layer": 0, "head": 0},
        **{"stack": "encoder"},
        **{"width": WIDTH, "pooling": "first", "probe": "logistic", "regulariser": 1e-3},
        **{"seed": 123, "metric": "accuracy", "dev": 50.0, "test": 48.0, "epochs": 8},
        **{"majority": 20.0, "chance": 16.67, "collapsed": False, "control": np.nan},
        **{"selectivity": np.nan, "n_train": 100, "n_dev": 0, "n_test": 50, "n_classes": 6},
        **{"bank": "b" * 64, "settings": '{"folds": 5}'},
    }
    return {**usual, **columns}


def table(rows: list[dict[str, Any]], file: TableFile = PROBES) -> pa.Table:
    """Return rows as a table of results."""
    return pa.Table.from_pylist(rows, file.schema)


def head_rows(
    tasks: tuple[str, ...] = TASKS,
    n_layers: int = N_LAYERS,
    n_heads: int = N_HEADS,
    **columns: Any,
) -> list[dict[str, Any]]:
    """Return one row for every head of some tasks, scores drawn by chance."""
    rng = np.random.default_rng(0)
    found = []
    for task in tasks:
        for layer in range(n_layers):
            for head in range(n_heads):
                dev = round(float(rng.uniform(30, 90)), 2)
                test = round(dev - float(rng.uniform(-2, 4)), 2)
                found.append(row(task=task, layer=layer, head=head, dev=dev, test=test, **columns))
    return found


def layer_rows(
    tasks: tuple[str, ...] = TASKS,
    n_layers: int = N_LAYERS,
    location: str = "block",
    **columns: Any,
) -> list[dict[str, Any]]:
    """Return one row for every layer as a whole."""
    whole = {"width": WIDTH * N_HEADS, "head": -1, "location": location}
    return [
        row(task=task, layer=layer, dev=60.0 + layer % 2, test=59.0 + layer, **whole, **columns)
        for task in tasks
        for layer in range(n_layers)
    ]


def concat_rows(
    tasks: tuple[str, ...] = TASKS, ns: tuple[int, ...] = (1, 2, 4, 12), **columns: Any
) -> list[dict[str, Any]]:
    """Return one row for every number of heads that were concatenated."""
    found = []
    for task in tasks:
        for n in ns:
            heads = [{"layer": i // N_HEADS, "head": i % N_HEADS} for i in range(n)]
            at = {"task": task, "layer": -1, "head": -1, "width": n * WIDTH, "n": n, "heads": heads}
            found.append(row(**at, dev=70.0 + n, test=69.0 + n, **columns))
    return found


def results_folder(folder: Path, *, concats: bool = True, blocks: bool = True) -> Path:
    """Write a results folder with `TASKS`, 3 layers of 4 heads of width 2; returns it."""
    rows = [*head_rows(), *(layer_rows() if blocks else [])]
    append(folder, table(rows))
    if concats:
        append(folder, table(concat_rows(), CONCATS), CONCATS)
    return folder

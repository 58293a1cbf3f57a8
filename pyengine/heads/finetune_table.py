"""The table of fine-tunings in a results folder: one row per seed and metric."""

from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.heads.results_table import CONCATS, TableFile

FINETUNES = TableFile(
    "finetunes.parquet",
    pa.schema(
        [
            ("model", pa.string()),
            ("task", pa.string()),
            ("representation", pa.string()),  # last, best, heads
            ("layer", pa.int32()),  # -1: heads
            CONCATS.schema.field("heads"),  # in their order; empty where it is a layer
            ("width", pa.int32()),  # of the pooled vector
            ("pooling", pa.string()),
            ("seed", pa.int64()),
            ("metric", pa.string()),  # accuracy, in percent; pearson, spearman
            ("dev", pa.float64()),
            ("test", pa.float64()),
            ("epochs", pa.int32()),
            ("learning_rate", pa.float64()),
            ("majority", pa.float64()),  # NaN of scores
            ("n_train", pa.int64()),
            ("n_dev", pa.int64()),
            ("n_test", pa.int64()),
            ("n_classes", pa.int32()),
            ("settings", pa.string()),  # JSON, sorted; with hashes of the model and the examples
        ]
    ),
    ("model", "task", "representation", "layer", "pooling", "metric", "seed", "settings"),
)

# What tells fine-tunings apart but for their seeds.
_ALIKE = ("model", "task", "representation", "layer", "pooling", "metric", "settings")

# Means over seeds; deviations are the samples', null for one seed.
MEANS = pa.schema(
    [
        *(FINETUNES.schema.field(name) for name in _ALIKE[:4]),
        *(FINETUNES.schema.field(name) for name in ("heads", "width", "pooling", "metric")),
        ("n_seeds", pa.int32()),
        *((name, pa.float64()) for name in ("dev", "dev_sd", "test", "test_sd")),
        *(FINETUNES.schema.field(name) for name in ("epochs", "learning_rate", "majority")),
        FINETUNES.schema.field("settings"),
    ]
)


def finetune_means(table: pa.Table) -> pa.Table:
    """Return one row, `MEANS`, for all seeds of fine-tunings that were made alike.

    Args:
        table: `FINETUNES`.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(tuple(row[name] for name in _ALIKE), []).append(row)
    return pa.Table.from_pylist([rows[0] | _means(rows) for rows in groups.values()], MEANS)


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"n_seeds": len(rows)}
    for part in ("dev", "test"):
        scores = [row[part] for row in rows]
        found[part] = float(np.mean(scores))
        found[f"{part}_sd"] = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return found

"""The table of fine-tunings in a results folder: one row per seed and metric."""

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

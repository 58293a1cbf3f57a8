"""Rows of results: which belong together, and as a matrix of layers and heads."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyengine.errors import PyengineError
from pyengine.heads.places import WITH_HEADS
from pyengine.heads.results_table import KEY, MAIN_METRICS, SCHEMA

# Rows that differ in one of these were not made alike, and are never averaged. (Stacks of one bank
# may be pooled differently.)
ALIKE = ("model", "bank", "probe", "settings")
PLURALS = dict(zip(ALIKE, ("models", "banks", "probes", "settings"), strict=True))

# Columns that a mean over seeds makes sense of.
NUMBERS = tuple(
    field.name for field in SCHEMA if field.name not in KEY and not pa.types.is_string(field.type)
)


def check_alike(table: pa.Table, task: str) -> None:
    """Refuse rows that were not made alike.

    Raises:
        PyengineError: naming what differs, and how to choose.
    """
    for name in ALIKE:
        found = sorted(set(table[name].to_pylist()))
        if len(found) > 1:
            raise PyengineError(
                f"results of {task} were made with several {PLURALS[name]}: {', '.join(found)}; "
                f"choose one with --where {name}=… (in Python with .where({name}=…))"
            )


def of_parts(table: pa.Table, location: str, whole: bool) -> pa.Table:
    """Keep the rows of heads, or of places as a whole, that tell the score of a task."""
    heads = location in WITH_HEADS and not whole
    side = pc.greater_equal(table["head"], 0) if heads else pc.less(table["head"], 0)
    return table.filter(pc.and_(side, pc.is_in(table["metric"], pa.array(MAIN_METRICS))))


def grid(table: pa.Table, column: str) -> np.ndarray:
    """Return the means over rows of one layer and head, float64 [n_layers, n_heads].

    Args:
        table: at least one row; head -1, a place as a whole, counts as 0.
        column: one of `NUMBERS`.

    Raises:
        PyengineError: for another column.
    """
    if column not in NUMBERS:
        raise PyengineError(f"{column!r} is no column of scores; these are: {', '.join(NUMBERS)}")
    layers, heads = table["layer"].to_numpy(), np.maximum(table["head"].to_numpy(), 0)
    shape = (int(layers.max()) + 1, int(heads.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (layers, heads), table[column].to_numpy().astype(np.float64))
    np.add.at(counts, (layers, heads), 1)
    return np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)

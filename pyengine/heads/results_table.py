"""The tables of results: one row per probe, appended to by any number of processes."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pyengine.analyses.agreement_result import read_table, write_table
from pyengine.errors import PyengineError
from pyengine.manifest import MANIFEST

ACCURACY, PEARSON, SPEARMAN = "accuracy", "pearson", "spearman"
# Of the unsupervised STS tasks, whose other two are means over data sets: weighted by their sizes.
WEIGHTED_PEARSON, WEIGHTED_SPEARMAN = "weighted_pearson", "weighted_spearman"
# One for each task, what heads are ranked by.
MAIN_METRICS = (ACCURACY, PEARSON)

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("task", pa.string()),
        ("location", pa.string()),
        ("stack", pa.string()),  # encoder or decoder; of heads from both decoder+encoder
        ("layer", pa.int32()),
        ("head", pa.int32()),  # -1: the place as a whole
        ("width", pa.int32()),  # of the vector
        ("pooling", pa.string()),
        ("probe", pa.string()),  # logistic, mlp, ridge, lda; cosine where nothing is trained
        ("regulariser", pa.float64()),  # the one that was chosen
        ("seed", pa.int64()),
        ("metric", pa.string()),  # accuracy, in percent; correlations
        ("dev", pa.float64()),  # NaN where there is none
        ("test", pa.float64()),
        ("epochs", pa.int32()),
        ("majority", pa.float64()),
        ("chance", pa.float64()),
        ("collapsed", pa.bool_()),
        ("control", pa.float64()),  # NaN where it was not asked for
        ("selectivity", pa.float64()),
        ("n_train", pa.int64()),
        ("n_dev", pa.int64()),
        ("n_test", pa.int64()),
        ("n_classes", pa.int32()),
        ("bank", pa.string()),
        ("settings", pa.string()),  # JSON, sorted
    ]
)

# What tells two rows apart, and their order.
KEY = (
    *("model", "task", "location", "layer", "head", "pooling", "probe", "metric", "seed"),
    *("settings", "bank"),
)
_ORDER = "_order"


@dataclass(frozen=True)
class TableFile:
    """One of the tables of a results folder.

    Attributes:
        name: of the file.
        schema: its columns.
        key: what tells two rows apart, and their order.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]


PROBES = TableFile("probes.parquet", SCHEMA, KEY)

# Of the n best heads together: location `head`, layer and head -1, width the sum of all.
_HEAD = pa.struct([("layer", pa.int32()), ("head", pa.int32())])
CONCATS = TableFile(
    "concats.parquet",
    SCHEMA.append(pa.field("n", pa.int32())).append(pa.field("heads", pa.list_(_HEAD))),
    (*KEY, "n"),
)


def short_name(model: str) -> str:
    """Return what results call a model: of a local folder its last name."""
    path = Path(model)
    return path.name if path.is_dir() or path.is_absolute() else model


def read(folder: str | Path, file: TableFile = PROBES) -> pa.Table:
    """Read a table of a results folder; one without rows where there is none yet.

    Raises:
        PyengineError: if it is damaged, has other columns, or the folder is a run's.
    """
    path = Path(folder) / file.name
    if (path.parent / MANIFEST).exists():
        raise PyengineError(f"{folder} is a run, such as a bank, not a folder of results")
    if not path.exists():
        return file.schema.empty_table()
    table = read_table(path)
    if not table.schema.equals(file.schema):
        raise PyengineError(f"{path} was made by another version; give another results folder")
    return table


def append(folder: str | Path, rows: pa.Table, file: TableFile = PROBES) -> None:
    """Add rows to a table of a results folder; equal rows, in any order of calls, equal bytes.

    Processes wait for each other; the file is replaced as a whole. Of rows with one key the newest
    stays, except that none with a control score gives way to one without.

    Args:
        folder: made if it is not there.
        rows: with the columns of the file.
        file: which table.

    Raises:
        PyengineError: if the file is damaged, or cannot be written.
    """
    rows = rows.select(file.schema.names).cast(file.schema)
    if not rows.num_rows:
        return
    with _locked(Path(folder), file):
        whole = pa.concat_tables([read(folder, file), rows])
        write_table(_sorted(_newest(whole, file), file), Path(folder) / file.name)


def _newest(table: pa.Table, file: TableFile) -> pa.Table:
    order = np.arange(table.num_rows)
    if "control" in file.schema.names:
        order += table.num_rows * ~np.isnan(table["control"].to_numpy())
    keyed = table.select(file.key).append_column(_ORDER, pa.array(order))
    last = keyed.group_by(list(file.key)).aggregate([(_ORDER, "max")])[f"{_ORDER}_max"]
    return table.take(pa.array(last.to_numpy() % table.num_rows))


def _sorted(table: pa.Table, file: TableFile) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in file.key]).combine_chunks()


@contextlib.contextmanager
def _locked(folder: Path, file: TableFile) -> Iterator[None]:
    """Keep other processes from the table; the lock's file stays, so that all lock the same one.

    Raises:
        PyengineError: if the folder cannot be written, or has no locks.
    """
    lock = folder / f".{file.name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise PyengineError(f"cannot lock {lock}: {error.strerror or error}") from error

"""The data frame of ff-layers' `--extract_ffn_info`, for notebooks written against it.

One row per example, with ff-layers' column names, order and list lengths: 19 columns in layer
mode, 14 in value mode, which is called `dim` there. What it counts in its own way is counted so:

- `random_pos` is counted from its start symbol: our content position plus 1;
- `coeffs_l0` counts the residual as one more memory;
- a memory with a coefficient of 0 or less is the zero vector (its network has a ReLU), which
  predicts token 0; `ffn_matching_dims_count` includes those;
- `dim` mode knows one layer only: here the last one of the run.

Written as Parquet or feather: ff-layers' pickle runs code when it is opened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyengine.errors import PyengineError
from pyengine.files import atomic_write
from pyengine.stacks import split_by_stack

if TYPE_CHECKING:
    from pyengine.analyses.prediction_result import Predictions

# Their column -> ours; both have one entry per layer.
LAYER_COLUMNS = {
    "layer_output_argmax": "layer_token",
    "layer_output_argmax_prob": "layer_prob",
    "residual_argmax": "residual_token",
    "residual_argmax_prob": "residual_prob",
    "residual_argmax_change": "changed_without_residual",
    "residual_output_rank": "residual_final_rank",
    "residual_output_prob": "residual_final_prob",
    "ffn_matching_dims_count": "n_matching_layer",
    "ffn_output_rank": "ffn_final_rank",
    "ffn_output_prob": "ffn_final_prob",
    "ffn_residual_output_rank": "ffn_residual_rank",
    "ffn_residual_output_prob": "ffn_residual_prob",
    "ffn_argmax": "ffn_token",
    "ffn_argmax_prob": "ffn_prob",
    "coeffs_l0": "n_active",
    "coeffs_residual_rank": "residual_norm_rank",
}
# [of the residual, of the FFN's output]
PAIRS = {
    "residual_ffn_output_rank": "final_rank",
    "residual_ffn_output_prob": "final_prob",
    "residual_ffn_argmax": "token",
    "residual_ffn_argmax_prob": "prob",
}
EXAMPLES_AT_A_TIME = 64  # distributions are long


def export_pandas_compat(predictions: "Predictions", path: Path) -> None:
    """Write predictions as ff-layers' data frame; see the module on what is counted how.

    Args:
        predictions: made with `output_dist=True`, in value mode also with `all_values=True`, over
            layers of one stack.
        path: ends in `.parquet` or `.feather`. The same result gives the same bytes.

    Raises:
        PyengineError: if the result lacks something, for another ending, or if the path cannot be
            written.
    """
    path = Path(path)
    writer_of = _writer_of(path)
    whole = _Part(
        _rows(predictions),
        predictions.examples,
        _checked(predictions),
        predictions.manifest["model"]["d_ff"],
    )
    columns_of = _layer_columns if predictions.mode == "layer" else _dim_columns

    def write(temporary: Path) -> None:
        tables = (
            pa.table(columns_of(whole.slice(start, EXAMPLES_AT_A_TIME)))
            for start in range(0, whole.n, EXAMPLES_AT_A_TIME)
        )
        first = next(tables)
        with writer_of(temporary, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table.combine_chunks())

    atomic_write(path, write)


@dataclass(frozen=True)
class _Part:
    """Consecutive examples.

    Attributes:
        rows: of the predictions' table: for each example one per layer, ascending; in value mode
            only the last one.
        examples: one row each.
        dist: float32 [examples, vocabulary].
        d_ff: memories of a layer.
    """

    rows: pa.Table
    examples: pa.Table
    dist: np.ndarray
    d_ff: int

    @property
    def n(self) -> int:
        return int(self.examples.num_rows)

    def slice(self, start: int, n: int) -> "_Part":
        each = self.rows.num_rows // self.n
        dist = np.asarray(self.dist[start : start + n], np.float32)
        rows = self.rows.slice(start * each, n * each)
        return _Part(rows, self.examples.slice(start, n), dist, self.d_ff)

    def column(self, name: str) -> np.ndarray:
        """Return [rows]; -1 or NaN where there is nothing."""
        return _values(self.rows[name].combine_chunks())

    def by_layer(self, name: str) -> np.ndarray:
        """Return [examples, layers]."""
        return self.column(name).reshape(self.n, -1)

    def memories(self, name: str) -> np.ndarray:
        """Return [rows, d_ff]."""
        lists = self.rows[f"all_{name}"].combine_chunks()
        return _values(lists.flatten()).reshape(-1, self.d_ff)

    def head(self) -> dict[str, Any]:
        return {"text": self.examples["text"], "output_dist_vals": _lists(self.dist)}

    def random_pos(self) -> Any:
        return self.examples["position"].to_numpy() + 1


def _writer_of(path: Path) -> Callable[[Path, pa.Schema], Any]:
    writers = {".parquet": _parquet, ".feather": _feather}
    ending = path.suffix.lower()
    if ending in (".pkl", ".pickle"):
        raise PyengineError(
            f"{path.name}: pickles run code when they are opened, so none is written; end the path "
            "in .parquet (pandas.read_parquet) or .feather (pandas.read_feather)"
        )
    if ending not in writers:
        raise PyengineError(f"{path.name} does not end in .parquet or .feather")
    return writers[ending]


def _checked(predictions: "Predictions") -> np.ndarray:
    """Return the distributions of a result that has all that the frame holds."""
    question = predictions.manifest["question"]
    if predictions.mode == "value" and not question["all_values"]:
        raise PyengineError(
            "ff-layers' frame lists every memory, but this run kept only the top ones; make it "
            "with `pyengine predictions … --mode value --all-values --output-dist`"
        )
    if predictions.output_dist is None:
        raise PyengineError(
            "ff-layers' frame holds output_dist_vals, but this run kept no distributions; make it "
            f"with `pyengine predictions … --mode {predictions.mode} --output-dist`"
        )
    if len(stacks := split_by_stack(predictions.manifest, question["layers"])) > 1:
        shown = " or ".join(f"{stack[0]}-{stack[-1]} ({name})" for name, stack in stacks.items())
        raise PyengineError(
            "ff-layers' frame is of one stack, but this run holds an encoder and a decoder; make "
            f"it with --layers {shown}"
        )
    return predictions.output_dist


def _rows(predictions: "Predictions") -> pa.Table:
    """Return what the frame is made of; of the long lists over memories only the last layer's."""
    if predictions.mode == "layer":
        return predictions.groups.read([*LAYER_COLUMNS.values(), "residual_norm"])
    last = predictions.manifest["question"]["layers"][-1]
    groups = (group.filter(pc.field("layer") == last) for group in predictions.groups)
    return pa.concat_tables([predictions.groups.schema.empty_table(), *groups])


def _layer_columns(part: _Part) -> dict[str, Any]:
    found = {ours: part.by_layer(ours) for ours in LAYER_COLUMNS.values()}
    inactive = part.d_ff - found["n_active"]
    found["n_matching_layer"] = found["n_matching_layer"] + inactive * (found["layer_token"] == 0)
    found["n_active"] = found["n_active"] + (part.by_layer("residual_norm") > 0)
    lists = {theirs: _lists(found[ours]) for theirs, ours in LAYER_COLUMNS.items()}
    return {**part.head(), **lists, "random_pos": part.random_pos()}


def _dim_columns(part: _Part) -> dict[str, Any]:
    active = part.memories("coefficients") > 0
    final, ffn = (part.column(name)[:, None] for name in ("final_token", "ffn_token"))
    uniform = np.float32(1 / part.dist.shape[1])

    def known(name: str, of_zero: Any) -> np.ndarray:
        """Return what the active memories say; the others are zero vectors."""
        return np.where(active, part.memories(name), of_zero)

    def with_residual(memories: np.ndarray, name: str) -> pa.Array:
        last = part.column(name)[:, None].astype(memories.dtype)
        return _lists(np.concatenate([memories, last], axis=1))

    pairs = {
        theirs: _lists(np.stack([part.column(f"{of}_{ours}") for of in ("residual", "ffn")], 1))
        for theirs, ours in PAIRS.items()
    }
    tokens, ranks = known("tokens", np.int32(0)), known("final_ranks", final)
    return {
        **part.head(),
        **pairs,
        "ffn_residual_output_rank": part.column("ffn_residual_rank"),
        "ffn_residual_output_prob": part.column("ffn_residual_prob"),
        "dim_pattern_preds": with_residual(tokens, "residual_token"),
        "dim_pattern_output_rank": with_residual(ranks, "residual_final_rank"),
        "dim_pattern_ffn_output_rank": _lists(known("ffn_ranks", ffn)),
        "dim_pattern_ffn_output_prob": _lists(known("ffn_probs", uniform)),
        "coeffs_vals": with_residual(known("contributions", np.float32(0)), "residual_norm"),
        "random_pos": part.random_pos(),
    }


def _values(column: pa.Array) -> np.ndarray:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int32())
    if column.null_count:
        none = -1 if pa.types.is_integer(column.type) else float("nan")
        column = column.fill_null(none)
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values


def _lists(matrix: np.ndarray) -> pa.Array:
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)))


def _parquet(path: Path, schema: pa.Schema) -> Any:
    return pq.ParquetWriter(path, schema, compression="zstd")


def _feather(path: Path, schema: pa.Schema) -> Any:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    return pa.ipc.new_file(str(path), schema, options=options)

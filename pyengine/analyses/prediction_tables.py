"""The columns of `Predictions`, and how arrays become tables and Parquet files.

In the arrays -1 stands for an integer, and NaN for a number, that there is none of; in the tables
both are null. No column holds a NaN.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pyengine.files import atomic_write

Arrays = dict[str, np.ndarray]

KINDS = ("agreement", "residual", "ffn", "composition")

EXAMPLES = pa.schema(
    [
        ("unit", pa.int64()),
        ("position", pa.int32()),
        ("token", pa.int32()),
        ("text", pa.string()),
        ("prefix", pa.string()),
    ]
)

_COMMON = {
    "unit": pa.int64(),
    "position": pa.int32(),
    "layer": pa.int32(),
    "gold_token": pa.int32(),
    "final_token": pa.int32(),
    "final_prob": pa.float32(),
    "n_active": pa.int32(),
    "n_negative": pa.int32(),
    "residual_norm": pa.float32(),
}


def schema(mode: str, all_values: bool = False) -> pa.Schema:
    """Return the columns of a mode's table, one row per example and layer."""
    fields = _COMMON | (_layer_fields() if mode == "layer" else _value_fields(all_values))
    return pa.schema(list(fields.items()))


def _layer_fields() -> dict[str, pa.DataType]:
    fields: dict[str, pa.DataType] = {}
    for part in ("layer", "residual", "ffn"):
        fields |= {f"{part}_token": pa.int32(), f"{part}_prob": pa.float32()}
        for target in ("final", "gold"):
            fields |= {f"{part}_{target}_rank": pa.int32(), f"{part}_{target}_prob": pa.float32()}
    return fields | {
        "ffn_residual_rank": pa.int32(),
        "ffn_residual_prob": pa.float32(),
        "changed_without_residual": pa.bool_(),
        "n_matching_layer": pa.int32(),
        "n_matching_ffn": pa.int32(),
        "residual_norm_rank": pa.int32(),
        "kind": pa.dictionary(pa.int32(), pa.string()),
    }


def _value_fields(all_values: bool) -> dict[str, pa.DataType]:
    integers, numbers = pa.list_(pa.int32()), pa.list_(pa.float32())
    fields: dict[str, pa.DataType] = {}
    for part in ("residual", "ffn"):
        fields |= {f"{part}_token": pa.int32(), f"{part}_prob": pa.float32()}
        fields |= {f"{part}_final_rank": pa.int32(), f"{part}_final_prob": pa.float32()}
    fields |= {"ffn_residual_rank": pa.int32(), "ffn_residual_prob": pa.float32()}
    fields |= {f"n_matching_{target}": pa.int32() for target in ("final", "ffn", "gold")}
    fields |= {"n_distinct": pa.int32(), "top_dims": integers}
    fields |= {"top_coefficients": numbers, "top_contributions": numbers}
    fields |= {"top_tokens": integers, "top_probs": numbers}
    for target in ("final", "gold", "ffn"):
        fields |= {f"top_{target}_ranks": integers, f"top_{target}_probs": numbers}
    if all_values:
        fields |= {"all_coefficients": numbers, "all_contributions": numbers}
        fields |= {"all_tokens": integers}
        for target in ("final", "ffn"):
            fields |= {f"all_{target}_ranks": integers, f"all_{target}_probs": numbers}
    return fields


# A row group: small enough that a few fit into any memory, and a list's offsets into 32 bits.
GROUP_ROWS, GROUP_ENTRIES = 1 << 18, 1 << 24


def to_tables(arrays: Arrays, wanted: pa.Schema) -> tuple[pa.Table, ...]:
    """Turn arrays [rows] or [rows, list] into tables, one per row group."""
    rows = len(arrays[wanted.names[0]])
    widest = max(array.shape[1] if array.ndim == 2 else 1 for array in arrays.values())
    size = max(1, min(GROUP_ROWS, GROUP_ENTRIES // max(1, widest)))
    return tuple(
        pa.table(
            [_column(arrays[field.name][at : at + size], field.type) for field in wanted],
            schema=wanted,
        )
        for at in range(0, rows, size)
    )


def _column(array: np.ndarray, wanted: pa.DataType) -> pa.Array:
    if array.ndim == 2:
        offsets = np.arange(len(array) + 1, dtype=np.int32) * array.shape[1]
        values = _column(array.reshape(-1), wanted.value_type)
        return pa.ListArray.from_arrays(pa.array(offsets), values, type=wanted)
    if array.dtype.kind in "OU":
        return pa.array(array, wanted)
    none = np.isnan(array) if array.dtype.kind == "f" else array < 0
    if pa.types.is_dictionary(wanted):
        return pa.DictionaryArray.from_arrays(pa.array(array, pa.int32(), mask=none), list(KINDS))
    if pa.types.is_boolean(wanted):
        return pa.array(array > 0, wanted, mask=none)
    return pa.array(array, wanted, mask=none)


@dataclass(frozen=True, eq=False)
class Groups:
    """A table as its row groups: in memory, or in one or several Parquet files.

    Attributes:
        schema: of the table.
        source: the groups, or the files in the order of their rows.
    """

    schema: pa.Schema
    source: tuple[pa.Table, ...] | tuple[Path, ...]

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the row groups, one in memory at a time where they come from files."""
        for part in self.source:
            if isinstance(part, pa.Table):
                yield part
                continue
            with pq.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Read the table, or some columns of it."""
        names = self.schema.names if columns is None else columns
        wanted = pa.schema([self.schema.field(name) for name in names])
        found = [
            part.select(names) if isinstance(part, pa.Table) else pq.read_table(part, columns=names)
            for part in self.source
        ]
        return pa.concat_tables([wanted.empty_table(), *found])

    def write(self, path: Path) -> None:
        """Write one Parquet file with the same row groups, whole or not at all."""
        write_parquet(path, self, self.schema)


def write_parquet(path: Path, groups: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables as the row groups of one file; the same tables give the same bytes."""

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in groups:
                writer.write_table(group)

    atomic_write(path, write)

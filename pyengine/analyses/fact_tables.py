"""The columns of `FactNeurons`, and how rows become tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

KINDS = ("own", "unrelated")
STATES = ("before", "suppressed", "enhanced")

FACTS = pa.schema(
    [
        ("fact", pa.int32()),
        ("uid", pa.string()),
        ("relation", pa.string()),
        ("subject", pa.string()),
        ("object", pa.string()),
        ("n_prompts", pa.int32()),
        ("n_neurons", pa.int32()),
        ("n_coarse", pa.float64()),
        ("share", pa.float64()),
        ("unrelated", pa.int32()),
        ("converged", pa.bool_()),
        ("completeness", pa.float64()),
    ]
)

NEURONS = pa.schema(
    [("fact", pa.int32()), ("layer", pa.int32()), ("dim", pa.int32()), ("n_prompts", pa.int32())]
)

EFFECTS = pa.schema(
    [
        ("fact", pa.int32()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("prompt", pa.int32()),
        ("text", pa.string()),
        ("target", pa.string()),
        *((f"probability_{state}", pa.float64()) for state in STATES),
        *((f"rank_{state}", pa.int32()) for state in STATES),
        *((f"correct_{state}", pa.bool_()) for state in STATES),
        *((f"completion_{state}", pa.string()) for state in STATES),
    ]
)

SKIPPED = pa.schema(
    [
        ("fact", pa.int32()),
        ("uid", pa.string()),
        ("relation", pa.string()),
        ("object", pa.string()),
        ("reason", pa.string()),
    ]
)

SCHEMAS = {"facts": FACTS, "neurons": NEURONS, "effects": EFFECTS, "skipped": SKIPPED}
FILES = {name: f"{name}.parquet" for name in SCHEMAS}

Tables = dict[str, pa.Table]


def to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Turn rows into a table; no column holds a NaN: None where there is no number."""
    columns = [pa.array([row[name] for row in rows], _plain(schema, name)) for name in schema.names]
    return join([pa.table(columns, names=schema.names)], schema)


def join(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Put tables one after the other; equal rows give an equal table, in one piece."""
    plain = pa.schema([(name, _plain(schema, name)) for name in schema.names])
    found = [table.select(schema.names).cast(plain) for table in tables]
    whole = pa.concat_tables([plain.empty_table(), *found])
    arrays = [pa.concat_arrays(whole[name].chunks) for name in schema.names]
    return pa.table(
        [_encoded(array, schema.field(i).type) for i, array in enumerate(arrays)], schema=schema
    )


def _plain(schema: pa.Schema, name: str) -> pa.DataType:
    wanted = schema.field(name).type
    return wanted.value_type if pa.types.is_dictionary(wanted) else wanted


def _encoded(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Use the same dictionary whatever kinds there are."""
    if not pa.types.is_dictionary(wanted):
        return array
    kinds = pa.array(KINDS)
    return pa.DictionaryArray.from_arrays(pc.index_in(array, kinds), kinds)

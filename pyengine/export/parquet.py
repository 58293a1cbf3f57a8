"""Parquet: one row per key and rank, per example and layer, or per fact and prompt."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyengine.analyses.agreement_result import write_table
from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.files import atomic_write

if TYPE_CHECKING:
    from pyengine.analyses.fact_neuron_result import FactNeurons
    from pyengine.analyses.prediction_result import Predictions

SCHEMA = pa.schema(
    [
        ("direction", pa.dictionary(pa.int8(), pa.string())),
        ("layer", pa.int32()),
        ("dim", pa.int32()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        ("unit", pa.int64()),
        ("position", pa.int32()),
        ("token", pa.int32()),
        ("next_token", pa.int32()),
        ("text", pa.string()),
    ]
)


def export_parquet(triggers: TriggerExamples, path: Path) -> None:
    """Write one row per key and rank, ascending by (direction, layer, dim, rank).

    `direction` is `max` or `min`; `next_token` is -1 at the end of a unit; `text` is the prefix
    that ends at `position`. The same run gives the same bytes.
    """

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            for direction, side in triggers.sides().items():
                for row in range(len(side.layers)):
                    writer.write_table(_layer_table(side, row, direction))

    atomic_write(path, write)


def export_predictions_parquet(predictions: "Predictions", path: Path) -> None:
    """Write the table of predictions, one row per example and layer, as `Predictions.table` has it.

    The same run gives the same bytes.
    """
    predictions.groups.write(path)


def export_fact_neurons_parquet(found: "FactNeurons", path: Path) -> None:
    """Write the effects, one row per fact and prompt, each with its fact's own columns.

    The columns are those of `FactNeurons.facts`, then those of `FactNeurons.effects`. The same run
    gives the same bytes.
    """
    places = pc.index_in(found.effects["fact"], found.facts["fact"])
    whole = found.facts.take(places)
    for name in found.effects.column_names[1:]:
        whole = whole.append_column(name, found.effects[name])
    write_table(whole, path)


def _layer_table(side: TriggerExamples, row: int, direction: str) -> pa.Table:
    units, positions = side.units[row].numpy(), side.positions[row].numpy()
    dim, rank = np.nonzero(units >= 0)
    found = units[dim, rank], positions[dim, rank]
    sequences = [side.unit_tokens(u) for u in found[0].tolist()]
    ends = found[1].tolist()
    prefixes = [tokens[: end + 1] for tokens, end in zip(sequences, ends, strict=True)]
    after = [
        tokens[end + 1] if end + 1 < len(tokens) else -1
        for tokens, end in zip(sequences, ends, strict=True)
    ]
    columns = {
        "direction": pa.array([direction] * len(dim)).dictionary_encode(),
        "layer": np.full(len(dim), side.layers[row], np.int32),
        "dim": np.array(side.dims, np.int32)[dim],
        "rank": rank.astype(np.int32),
        "score": side.scores[row].numpy()[dim, rank],
        "unit": found[0],
        "position": found[1],
        "token": np.array([prefix[-1] for prefix in prefixes], np.int32),
        "next_token": np.array(after, np.int32),
        "text": side.text.decode_many(prefixes),
    }
    return pa.table(columns).cast(SCHEMA)

"""Parquet: the vectors of a bank, one row per sentence, place and head."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pyengine.analyses.prediction_tables import write_parquet
from pyengine.heads.bank import BankPlace, HeadBank

SCHEMA = pa.schema(
    [
        ("sentence", pa.int64()),
        ("text", pa.string()),
        ("sha256", pa.string()),
        ("location", pa.string()),
        ("layer", pa.int32()),
        ("head", pa.int32()),
        ("vector", pa.list_(pa.float32())),
    ]
)

GROUP_NUMBERS = 1 << 24  # of the vectors in a row group


def export_bank_parquet(bank: HeadBank, path: Path) -> None:
    """Write one row per sentence, place and head, ascending by (place, sentence, head).

    `head` is -1 where a place has no heads; `sha256` is of the text. The same bank gives the same
    bytes.
    """
    texts = bank.texts()
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    whole = {"text": np.array(texts, object), "sha256": np.array(hashes, object)}
    groups = (group for place in bank.places for group in _groups(bank, place, whole))
    write_parquet(path, groups, SCHEMA)


def _groups(bank: HeadBank, place: BankPlace, texts: dict[str, np.ndarray]) -> Iterator[pa.Table]:
    vectors = bank.vectors(place.location, place.layer)
    n, n_parts, width = vectors.shape
    heads = np.arange(n_parts) if place.has_heads else np.array([-1])
    step = max(1, GROUP_NUMBERS // place.width)
    for first in range(0, n, step):
        some = vectors[first : first + step]
        sentences = np.repeat(np.arange(first, first + len(some)), n_parts)
        rows = len(sentences)
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
        columns = {
            "sentence": sentences,
            **{name: pa.array(values[sentences]) for name, values in texts.items()},
            "location": pa.array([place.location] * rows),
            "layer": np.full(rows, place.layer),
            "head": np.tile(heads, len(some)),
            "vector": pa.ListArray.from_arrays(offsets, pa.array(some.reshape(-1))),
        }
        yield pa.table(columns).cast(SCHEMA)

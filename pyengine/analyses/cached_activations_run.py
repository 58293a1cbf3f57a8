"""Blocks of activations as part files of a run, and from there to the result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.analyses.cached_activations_pass import CachePass
from pyengine.analyses.cached_activations_result import (
    INDEX,
    INDEX_FILE,
    TENSORS,
    CachedActivations,
    tensor_file,
)
from pyengine.analyses.prediction_tables import Groups
from pyengine.cache_files import write_tensors
from pyengine.parts import FOLDER, Part, finish_part, part_path
from pyengine.store import TokenStore
from pyengine.token_text import TokenText


def run_into_parts(
    search: CachePass,
    blocks: range,
    done: dict[int, Part],
    folder: Path,
    on_batch: Callable[[int], None],
) -> list[Part]:
    """Compute the blocks that are not done; a kill costs the one at work.

    `on_batch` is called with the content tokens of what has been done, now or before.
    """
    on_batch(sum(part.record["n_tokens"] for part in done.values()))
    return [
        done[block] if block in done else _run_part(search, block, folder / FOLDER, on_batch)
        for block in blocks
    ]


def _run_part(search: CachePass, block: int, folder: Path, on_batch: Callable[[int], None]) -> Part:
    found, units = search.run(block, on_batch), search.units(block)
    write_tensors(part_path(folder, block, TENSORS), found.tensors)
    index = _index(search.store, units, tensor_file(block))
    Groups(INDEX, (index,)).write(part_path(folder, block, INDEX_FILE))
    return finish_part(folder, block, units, (TENSORS, INDEX_FILE), found.record)


def _index(store: TokenStore, units: tuple[int, int], file: str) -> pa.Table:
    first, last = units
    offsets = np.asarray(store.offsets[first : last + 1])
    tokens = np.asarray(store.tokens[offsets[0] : offsets[-1]], np.int32)
    starts = offsets - offsets[0]
    lists = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(tokens))
    columns = {
        "unit": np.arange(first, last),
        "file": pa.array([file] * (last - first)),
        "row": starts[:-1],
        "n_tokens": np.diff(offsets).astype(np.int32),
        "tokens": lists,
    }
    return pa.table(columns).cast(INDEX)


def from_parts(
    parts: list[Part], text: TokenText, manifest: dict[str, Any], *, mixed: bool = False
) -> CachedActivations:
    """Make a result of part files, in order of their units; they are not read yet.

    Args:
        parts: of one run.
        text, manifest: of the run.
        mixed: whether the parts differ in numerics; the result is then not exact.
    """
    records = [part.record for part in parts]
    sums = ("n_tokens", "n_computed", "n_overflow")
    counters: dict[str, Any] = {name: sum(record[name] for record in records) for name in sums}
    exact = all(record["exact"] for record in records) and not mixed
    n_units = sum(part.units[1] - part.units[0] for part in parts)
    return CachedActivations(
        tuple(part.path(TENSORS) for part in parts),
        Groups(INDEX, tuple(part.path(INDEX_FILE) for part in parts)),
        text,
        manifest,
        counters | {"n_units": n_units, "exact": exact},
    )

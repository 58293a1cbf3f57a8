"""Shard files: one cumulative checkpoint per worker, which in the end is its result.

A shard file is one safetensors file with one metadata key, a JSON record; the record holds the
SHA-256 of the tensors, so that a damaged file is refused.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pyengine.errors import PyengineError
from pyengine.files import atomic_write
from pyengine.units import UnitTable

FOLDER = "shards"
METADATA_KEY = "pyengine"
ROWS = "rows"  # what the arrays of kept rows are named before the dot
TABLE = ("units", "first_ids", "offsets", "tokens")

Arrays = dict[str, np.ndarray]
# Merges two states of one reducer; the first is None to begin with.
Merge = Callable[[Arrays | None, Arrays], Arrays]


@dataclass(frozen=True)
class Shard:
    """What one worker has found so far.

    Attributes:
        states: of each reducer, its arrays as `pyengine.extraction.states` names them.
        table: the units that the heaps refer to; None until the shard is complete.
        record: shard, n_shards, units [first, last), cursor, counters, `complete`.
    """

    states: list[Arrays]
    table: UnitTable | None
    record: dict[str, Any]

    @property
    def complete(self) -> bool:
        return bool(self.record["complete"])

    @property
    def ids(self) -> np.ndarray:
        """The corpus offsets of all heaps and kept rows, int64 [n]."""
        names = ("max.ids", "min.ids", f"{ROWS}.ids")
        found = [state[name].ravel() for state in self.states for name in names if name in state]
        return np.concatenate([np.zeros(0, np.int64), *found])


def shard_path(folder: Path, shard: int, n_shards: int) -> Path:
    """Name the file of shard `shard` (from 0) of `n_shards` in a run directory."""
    return folder / FOLDER / f"{shard:05d}-of-{n_shards:05d}.safetensors"


def save_shard(path: Path, shard: Shard) -> None:
    """Write a shard file, whole or not at all."""
    tensors = {
        f"{index}.{name}": array
        for index, state in enumerate(shard.states)
        for name, array in state.items()
    }
    if shard.table is not None:
        tensors |= {f"table.{name}": getattr(shard.table, name) for name in TABLE}
    save_tensors(path, tensors, {**shard.record, "n_reducers": len(shard.states)})


def load_shard(path: Path) -> Shard:
    """Read a shard file.

    Raises:
        PyengineError: if it is missing, truncated or does not match its checksum.
    """
    tensors, record = load_tensors(path)
    if "n_reducers" not in record:
        raise PyengineError(f"{path} is of an older version; delete it, and run its command again")
    states: list[Arrays] = [{} for _ in range(record.pop("n_reducers"))]
    for key, array in tensors.items():
        owner, _, name = key.partition(".")
        if owner != "table":
            states[int(owner)][name] = array
    table = None
    if "table.units" in tensors:
        table = UnitTable(**{name: tensors[f"table.{name}"] for name in TABLE})
    return Shard(states, table, record)


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON record to one safetensors file, deterministically."""
    contiguous = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    full = {**record, "sha256": _tensor_hash(contiguous)}
    metadata = {METADATA_KEY: json.dumps(full, sort_keys=True)}
    atomic_write(path, lambda temporary: _save(contiguous, temporary, metadata))


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_tensors` wrote, verifying the checksum.

    Raises:
        PyengineError: if the file is missing, damaged or not ours.
    """
    with _opened(path) as file:
        record = json.loads((file.metadata() or {})[METADATA_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if record.pop("sha256", None) != _tensor_hash(tensors):
        raise PyengineError(f"{path} is damaged: its contents do not match its checksum")
    return tensors, record


class ShardMerge:
    """Merges the complete shards of one run as they come; two states are in memory at a time.

    Args:
        merges: of each reducer, how two of its states are merged.
    """

    def __init__(self, merges: Sequence[Merge]) -> None:
        self._merges = merges
        self._merged: list[Arrays | None] = [None] * len(merges)
        self._records: list[dict[str, Any]] = []
        self._paths: list[Path] = []

    def add(self, path: Path) -> None:
        """Merge a shard file.

        Raises:
            PyengineError: if it is missing, damaged or incomplete.
        """
        shard = load_shard(path)
        if not shard.complete:
            raise PyengineError(f"shard {path} is incomplete; finish it with its own command")
        pairs = zip(self._merges, self._merged, shard.states, strict=True)
        self._merged = [merge(before, state) for merge, before, state in pairs]
        self._records.append(shard.record)
        self._paths.append(path)

    def finish(self, n_units: int) -> Shard:
        """Return all shards as one; the files are read once more, for their units' tokens only.

        Args:
            n_units: units of the corpus; the shards must cover them all, each once.

        Raises:
            PyengineError: if a shard is missing or covered twice.
        """
        check_cover(self._records, n_units)
        return self.whole(n_units)

    def whole(self, n_units: int) -> Shard:
        """Return what `finish` returns, whether or not the shards cover the corpus."""
        record = _merged_record(self._records, n_units)
        found = Shard([state or {} for state in self._merged], None, record)
        return replace(found, table=UnitTable.merge(map(_load_table, self._paths), found.ids))


def _load_table(path: Path) -> UnitTable:
    """Read the units of a shard file whose checksum has been verified."""
    with _opened(path) as file:
        if "table.units" not in file.keys():  # noqa: SIM118
            return UnitTable.empty()
        return UnitTable(**{name: file.get_tensor(f"table.{name}") for name in TABLE})


def check_cover(records: Iterable[Mapping[str, Any]], n_units: int) -> None:
    """Check that the `units` [first, last) of some records cover a corpus, each unit once.

    Raises:
        PyengineError: naming the first unit that is missing, or held twice.
    """
    at = 0
    for first, last in sorted(tuple(record["units"]) for record in records):
        if first == last:
            continue
        if first < at:
            raise PyengineError(f"two shards hold unit {first}; was a shard given twice?")
        if first > at:
            raise PyengineError(f"a shard is missing: no shard holds units {at} to {first - 1}")
        at = last
    if at != n_units:
        raise PyengineError(f"a shard is missing: no shard holds units {at} to {n_units - 1}")


def _merged_record(records: list[dict[str, Any]], n_units: int) -> dict[str, Any]:
    return {
        "shard": 0,
        "n_shards": 1,
        "units": [0, n_units],
        "complete": True,
        "exact": all(record["exact"] for record in records),
        "n_tokens": sum(record["n_tokens"] for record in records),
        "n_computed": sum(record["n_computed"] for record in records),
        "n_nan": np.sum([record["n_nan"] for record in records], axis=0).tolist(),
    }


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError as error:
        raise PyengineError(f"{path} does not exist") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise PyengineError(f"{path} is damaged or not a pyengine file: {error}") from error


def _save(tensors: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # a full disk arrives as this type
        raise OSError(str(error)) from error


def _tensor_hash(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()

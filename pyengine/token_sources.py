"""Token ids that need no tokenizer: sequences in memory, and arrays in files."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from pyengine.errors import PyengineError
from pyengine.files import sha256_file
from pyengine.lines import COMPRESSED, read_bytes

MAX_ID = 2**32 - 1
CHUNK_UNITS = 8192


class Chunk(NamedTuple):
    """Some units: their tokens one after the other, uint32 [n]; their lengths, int64 [units]."""

    tokens: np.ndarray
    lengths: np.ndarray


@runtime_checkable
class TokenSource(Protocol):
    """What `Corpus` asks of a source of token ids."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield the units in order."""

    def fingerprint(self) -> str:
        """Return a hash of the ids and of how they are cut."""

    def describe(self) -> str:
        """Name the source in a few words."""


@dataclass(frozen=True, eq=False)
class TokenLists:
    """Sequences of ids in memory, one per unit."""

    ids: Sequence[Any]

    def chunks(self) -> Iterator[Chunk]:
        for first in range(0, len(self.ids), CHUNK_UNITS):
            group = self.ids[first : first + CHUNK_UNITS]
            units = [_check_unit(unit, first + i) for i, unit in enumerate(group)]
            lengths = np.array([len(unit) for unit in units], np.int64)
            yield Chunk(np.concatenate(units), lengths)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tokens, lengths in self.chunks():
            digest.update(lengths.tobytes() + tokens.tobytes())
        return digest.hexdigest()

    def describe(self) -> str:
        return f"{len(self.ids)} sequences"


@dataclass(frozen=True)
class TokenArray:
    """An array in a `.npy` or `.safetensors` file: 2-D, a unit per row, or 1-D, cut in windows."""

    path: Path
    window: int | None = None

    def chunks(self) -> Iterator[Chunk]:
        array = self._load()
        if array.ndim == 2 and self.window is None:
            step = max(1, (1 << 22) // max(1, array.shape[1]))
            for first in range(0, len(array), step):
                rows = array[first : first + step]
                lengths = np.full(len(rows), array.shape[1], np.int64)
                yield Chunk(_check_ids(rows.reshape(-1), str(self.path)), lengths)
        elif array.ndim == 1 and self.window is not None:
            step = self.window * max(1, (1 << 22) // self.window)
            for first in range(0, len(array), step):
                tokens = _check_ids(array[first : first + step], str(self.path))
                full, tail = divmod(len(tokens), self.window)
                lengths = np.array([self.window] * full + [tail] * bool(tail), np.int64)
                yield Chunk(tokens, lengths)
        elif array.ndim == 1:
            raise PyengineError(
                f"{self.path} is 1-D; say window=N to cut it into units of N tokens"
            )
        else:
            given = f"and window={self.window}" if self.window else "without a window"
            raise PyengineError(
                f"{self.path} has shape {array.shape} {given}; "
                "expected [units, tokens], or [tokens] with window=N"
            )

    def _load(self) -> np.ndarray:
        try:
            if self._ending() == ".safetensors":
                array = self._only_tensor()
            elif self.path.suffix in COMPRESSED:
                array = np.load(io.BytesIO(read_bytes(self.path)), allow_pickle=False)
            else:
                array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, SafetensorError) as error:
            raise PyengineError(f"cannot read {self.path}: {error}") from error
        except PyengineError:
            raise
        except ValueError as error:
            # numpy takes every unknown file for a pickle.
            raise PyengineError(f"{self.path} is not an array that can be read safely") from error
        if not isinstance(array, np.ndarray):
            raise PyengineError(f"{self.path} is not one array; save it with numpy.save")
        return array

    def _ending(self) -> str:
        name = self.path.with_suffix("") if self.path.suffix in COMPRESSED else self.path
        return name.suffix

    def _only_tensor(self) -> np.ndarray:
        if self.path.suffix in COMPRESSED:
            tensors = safetensors.numpy.load(read_bytes(self.path))
        else:
            tensors = safetensors.numpy.load_file(self.path)
        if len(tensors) != 1:
            raise SafetensorError(f"it holds {len(tensors)} tensors, expected one")
        return next(iter(tensors.values()))

    def fingerprint(self) -> str:
        return f"{sha256_file(self.path)} {self.window}"

    def describe(self) -> str:
        return f"{self.path} (windows of {self.window})" if self.window else str(self.path)


def _check_unit(unit: Any, index: int) -> np.ndarray:
    try:
        array = np.asarray(unit)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PyengineError(f"unit {index}: not a sequence of token ids: {error}") from error
    if array.ndim != 1:
        shape = f"{array.ndim}-D" if array.ndim else "a single value"
        raise PyengineError(f"unit {index}: expected a sequence of token ids, got {shape}")
    # An empty list is float64 to numpy.
    return _check_ids(array if array.size else array.astype(np.int64), f"unit {index}")


def _check_ids(ids: np.ndarray, where: str) -> np.ndarray:
    if ids.dtype.kind not in "iu":
        raise PyengineError(f"{where}: token ids must be integers, got {ids.dtype}")
    if ids.size and (low := int(ids.min())) < 0:
        raise PyengineError(f"{where}: negative token id {low}")
    if ids.size and (high := int(ids.max())) > MAX_ID:
        raise PyengineError(f"{where}: token id {high} is above {MAX_ID}")
    return np.ascontiguousarray(ids, dtype=np.uint32)

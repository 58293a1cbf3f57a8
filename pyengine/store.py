"""A tokenised corpus: all content tokens in one memory-mapped array, and where each unit starts."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.prefixes import prefix_starts

FORMAT = 1
TOKENS, OFFSETS, META = "tokens.bin", "offsets.bin", "meta.json"
HASH_TOKENS = 1 << 22


@dataclass(frozen=True)
class Report:
    """What became of the corpus.

    Attributes:
        units: units in the store.
        tokens: content tokens in the store.
        split_units: over-long units that were cut into several.
        dropped_units: over-long units left out.
        skipped_empty: units without a token, left out.
    """

    units: int = 0
    tokens: int = 0
    split_units: int = 0
    dropped_units: int = 0
    skipped_empty: int = 0


@dataclass(frozen=True, eq=False)
class TokenStore:
    """The content tokens of a corpus, unit after unit.

    Attributes:
        tokens: uint16 or uint32 [n_tokens], token ids of the vocabulary.
        offsets: int64 [n_units + 1], strictly increasing; unit i is
            tokens[offsets[i] : offsets[i + 1]].
        report: what became of the corpus.
        adds_special: whether the model's special tokens go around a unit; False for token ids
            that were given, which are fed as they are.
        content_hash: SHA-256 over the tokens (as little-endian uint32) and the offsets; of a store
            that is still being written empty.
        source: where it comes from, in words.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    report: Report
    adds_special: bool
    content_hash: str
    source: str = "token store"

    @classmethod
    def in_memory(
        cls, tokens: np.ndarray, offsets: np.ndarray, report: Report, adds_special: bool
    ) -> "TokenStore":
        """Wrap arrays."""
        return cls(tokens, offsets, report, adds_special, hash_content(tokens, offsets))

    @classmethod
    def open(cls, folder: str | Path) -> "TokenStore":
        """Map a store written by `tokenize`, and verify its checksum.

        Raises:
            PyengineError: if it is incomplete, damaged, or of another format.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            report, dtype = Report(**meta["report"]), np.dtype(meta["dtype"])
            if meta["format"] != FORMAT or dtype not in (np.uint16, np.uint32):
                raise PyengineError(f"the token store {folder} has another format")
            tokens = _map(folder / TOKENS, dtype, report.tokens)
            offsets = _map(folder / OFFSETS, np.dtype(np.int64), report.units + 1)
            expected, adds_special = meta["sha256"], bool(meta["adds_special"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, PyengineError):
                raise
            raise PyengineError(f"the token store {folder} is damaged: {error}") from error
        if hash_content(tokens, offsets) != expected:
            raise PyengineError(f"the token store {folder} is damaged: its checksum is wrong")
        return cls(tokens, offsets, report, adds_special, expected)

    def write_meta(self, folder: Path) -> None:
        """Write what `open` needs besides the two arrays."""
        meta = {
            "format": FORMAT,
            "dtype": str(self.tokens.dtype),
            "report": asdict(self.report),
            "adds_special": self.adds_special,
            "sha256": self.content_hash,
        }
        text = json.dumps(meta, indent=2, sort_keys=True) + "\n"
        (folder / META).write_text(text, encoding="utf-8")

    @property
    def complete(self) -> bool:
        """Whether it holds the whole corpus; not yet, while it is written."""
        return bool(self.content_hash)

    @property
    def n_units(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> np.ndarray:
        """Content tokens of each unit, int64 [n_units]."""
        return np.diff(self.offsets)

    def unit_tokens(self, unit: int) -> np.ndarray:
        """Return the content tokens of a unit.

        Raises:
            IndexError: if there is no such unit.
        """
        if not 0 <= unit < self.n_units:
            raise IndexError(f"unit {unit} of {self.n_units}")
        return self.tokens[self.offsets[unit] : self.offsets[unit + 1]]

    def locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn offsets among the content tokens into units and positions.

        Args:
            ids: int64, any shape; -1 = none.

        Returns:
            Units (int64) and positions (int32), -1 where there is none.

        Raises:
            IndexError: if an id is not in the store.
        """
        ids = np.asarray(ids, np.int64)
        if ids.size and (ids.min() < -1 or ids.max() >= self.n_tokens):
            raise IndexError(f"ids must lie in [-1, {self.n_tokens}), got {ids.min()}..{ids.max()}")
        found = ids >= 0
        units = np.where(found, np.searchsorted(self.offsets, ids, side="right") - 1, -1)
        positions = np.where(found, ids - self.offsets[units], -1)
        return units.astype(np.int64), positions.astype(np.int32)

    def prefix_starts(self) -> np.ndarray:
        """Return the first position of each unit that ends a prefix seen in no earlier unit.

        Returns:
            int32 [n_units]; the unit's length where the whole unit begins an earlier one.
        """
        return self._prefix_starts

    @cached_property
    def _prefix_starts(self) -> np.ndarray:
        return prefix_starts(self.tokens, self.offsets)


def tokenize(
    corpus: Corpus,
    tokenizer: Any = None,
    *,
    max_tokens: int,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """Tokenise a corpus, or open the store that an earlier call has written.

    Args:
        corpus: what to read.
        tokenizer: a Hugging Face tokenizer; None if the corpus holds token ids. Special tokens
            are not added here.
        max_tokens: longest unit; longer ones are split or dropped as the corpus says.
        cache_dir: where stores are kept, one folder per corpus, options, tokenizer and
            `max_tokens`. None: $PYENGINE_CACHE, else ~/.cache/pyengine. Token ids, and text under
            a tokenizer without a Rust backend, stay in memory.
        progress: called now and then with how far the source has been read, and its end (in
            bytes, texts or rows; 0 = unknown). Not called when a store is reused.

    Raises:
        PyengineError: if the source is unreadable, malformed or has no units, if the tokenizer is
            missing, or if the cache cannot be written.
    """
    from pyengine.tokenizing import build

    [store] = deque(build(corpus, tokenizer, max_tokens, cache_dir, progress), maxlen=1)
    return replace(store, source=corpus.describe())


def tokenize_ahead(
    corpus: Corpus,
    tokenizer: Any = None,
    *,
    max_tokens: int,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[TokenStore]:
    """Yield what is tokenised so far, while a thread goes on; in the end what `tokenize` returns.

    What is in memory or in the cache comes at once. Close the generator to stop the thread.

    Arguments and errors are those of `tokenize`; `progress` is called from the thread.
    """
    from pyengine.tokenizing import build

    with closing(build(corpus, tokenizer, max_tokens, cache_dir, progress, True)) as stores:
        for store in stores:
            yield replace(store, source=corpus.describe())


def tokenizer_hash(tokenizer: Any) -> str | None:
    """Return the SHA-256 of a tokenizer's definition; None if it has no Rust backend.

    Truncation and padding are left out: they change from call to call, and never apply here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    definition = json.loads(backend.to_str())
    definition.update(truncation=None, padding=None)
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def hash_content(tokens: np.ndarray, offsets: np.ndarray) -> str:
    """Return the SHA-256 over the tokens as little-endian uint32, then the offsets as int64."""
    digest = hashlib.sha256()
    for first in range(0, len(tokens), HASH_TOKENS):
        digest.update(tokens[first : first + HASH_TOKENS].astype("<u4").tobytes())
    digest.update(np.ascontiguousarray(offsets, "<i8").data)
    return digest.hexdigest()


def _map(path: Path, dtype: np.dtype, length: int) -> np.ndarray:
    if path.stat().st_size != length * dtype.itemsize:
        raise ValueError(f"{path.name} has the wrong size")
    return np.memmap(path, dtype, mode="r", shape=(length,)).view(np.ndarray)

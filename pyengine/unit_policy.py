"""Cutting token streams into units: windows of documents, over-long and empty units, the limit."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.store import Report
from pyengine.token_sources import Chunk


@dataclass
class UnitPolicy:
    """Skips empty units, splits or drops over-long ones, stops at the last one; counts all that."""

    corpus: Corpus
    max_tokens: int
    counts: dict[str, int] = field(default_factory=dict)

    def apply(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Pass chunks on under the policy.

        Raises:
            PyengineError: at the end, if no unit is left.
        """
        limit = self.corpus.max_units
        for chunk in chunks:
            kept = self._fit(self._up_to(chunk, None if limit is None else limit - self._units))
            if kept.lengths.size:
                self._count(units=len(kept.lengths), tokens=len(kept.tokens))
                yield kept
            if limit is not None and self._units >= limit:
                break
        if not self._units:
            raise PyengineError(self._why_empty())

    def report(self) -> Report:
        return Report(**self.counts)

    @property
    def _units(self) -> int:
        return self.counts.get("units", 0)

    def _count(self, **more: int) -> None:
        for name, n in more.items():
            self.counts[name] = self.counts.get(name, 0) + int(n)

    def _pieces(self, lengths: np.ndarray) -> np.ndarray:
        """Return how many units each original one becomes."""
        if self.corpus.long == "split":
            return -(-lengths // self.max_tokens)
        return ((lengths > 0) & (lengths <= self.max_tokens)).astype(np.int64)

    def _up_to(self, chunk: Chunk, limit: int | None) -> Chunk:
        """Leave out the original units after the one that reaches `limit`."""
        if limit is None:
            return chunk
        needed = int(np.searchsorted(np.cumsum(self._pieces(chunk.lengths)), limit)) + 1
        lengths = chunk.lengths[:needed]
        return Chunk(chunk.tokens[: lengths.sum()], lengths)

    def _fit(self, chunk: Chunk) -> Chunk:
        tokens, lengths = chunk
        long = lengths > self.max_tokens
        self._count(skipped_empty=int((lengths == 0).sum()))
        if not long.any():
            return Chunk(tokens, lengths[lengths > 0])
        if self.corpus.long == "drop":
            self._count(dropped_units=int(long.sum()))
            return Chunk(tokens[np.repeat(~long, lengths)], lengths[~long & (lengths > 0)])
        self._count(split_units=int(long.sum()))
        pieces = self._pieces(lengths)
        fitted = np.full(pieces.sum(), self.max_tokens, np.int64)
        lasts = np.cumsum(pieces) - 1
        full = lengths > 0
        fitted[lasts[full]] = (lengths - (pieces - 1) * self.max_tokens)[full]
        limit = self.corpus.max_units
        if limit is not None:
            fitted = fitted[: limit - self._units]
        return Chunk(tokens[: fitted.sum()], fitted)

    def _why_empty(self) -> str:
        where = self.corpus.source.describe()
        if dropped := self.counts.get("dropped_units"):
            return (
                f"{where}: all {dropped} units are longer than {self.max_tokens} tokens; "
                "use long='split'"
            )
        return f"{where}: there are no units (is it empty?)"


class Windows:
    """Joins the lines of a document and cuts them into windows, the tail kept."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._carry = np.zeros(0, np.uint32)

    def cut(self, lines: Chunk, starts_document: np.ndarray) -> Chunk:
        """Return the windows that are complete; the last document may go on."""
        ends = np.cumsum(lines.lengths)
        before = np.flatnonzero(starts_document)
        bounds = (ends - lines.lengths)[before] + len(self._carry)
        tokens = np.concatenate([self._carry, lines.tokens])
        # The carried tail is a document of its own (length 0 if there is none).
        documents = np.diff(np.concatenate([[0], bounds, [len(tokens)]]))
        documents[-1] -= documents[-1] % self._window
        self._carry = tokens[documents.sum() :].copy()
        return Chunk(tokens[: documents.sum()], self._lengths(documents))

    def rest(self) -> Chunk:
        """Return the tail of the last document."""
        lengths = self._lengths(np.array([len(self._carry)]))
        return Chunk(self._carry, lengths)

    def _lengths(self, documents: np.ndarray) -> np.ndarray:
        windows = -(-documents // self._window)
        lengths = np.full(windows.sum(), self._window, np.int64)
        full = documents > 0
        tails = (documents - (windows - 1) * self._window)[full]
        lengths[(np.cumsum(windows) - 1)[full]] = tails
        return lengths

"""Where text comes from: files and lists (Hugging Face datasets: `dataset_source`).

A text source yields pieces `(text, starts_document, done)`: one line of text without its newline
(never blank), whether a new document begins with it, and how far the source has been read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pyengine.errors import PyengineError
from pyengine.lines import check_text, hash_files, hash_texts, plain_size, read_lines
from pyengine.text import heading_level

Piece = tuple[str, bool, int]


class TextSource(Protocol):
    """What `Corpus` asks of a source of text."""

    @property
    def wikitext(self) -> bool:
        """Whether the lines are tokenised as WikiText's are."""

    def pieces(self) -> Iterator[Piece]:
        """Yield the non-blank lines in order."""

    def size(self) -> int:
        """Return what `done` reaches at the end; 0 = unknown."""

    def fingerprint(self) -> str:
        """Return a hash of everything that `pieces` yields."""

    def describe(self) -> str:
        """Name the source in a few words."""


@dataclass(frozen=True)
class TextFiles:
    """Text files read line by line; a document is a WikiText article, else a whole file."""

    paths: tuple[Path, ...]
    wikitext: bool = False

    def pieces(self) -> Iterator[Piece]:
        done = 0
        for path in self.paths:
            fresh = True
            for line, _, n_bytes in read_lines(path):
                done += n_bytes
                if text := line.strip():
                    new = fresh or (self.wikitext and heading_level(line) == 1)
                    yield text, new, done
                    fresh = False

    def size(self) -> int:
        return plain_size(self.paths)

    def fingerprint(self) -> str:
        return hash_files(self.paths)

    def describe(self) -> str:
        return ", ".join(map(str, self.paths))


@dataclass(frozen=True)
class JsonLines:
    """JSONL files; every record is a document."""

    paths: tuple[Path, ...]
    field: str
    wikitext: bool = False

    def pieces(self) -> Iterator[Piece]:
        done = 0
        for path in self.paths:
            for line, number, n_bytes in read_lines(path):
                done += n_bytes
                if line.strip():
                    yield from lines_of(self._text(line, f"{path}:{number}"), done)

    def _text(self, line: str, where: str) -> str:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise PyengineError(f"{where}: not JSON: {error}") from error
        if not isinstance(record, dict) or self.field not in record:
            fields = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise PyengineError(f"{where}: no field {self.field!r} (there is: {fields or 'none'})")
        return check_text(record[self.field], f"{where}: field {self.field!r}")

    def size(self) -> int:
        return plain_size(self.paths)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.field}\n{hash_files(self.paths)}".encode()).hexdigest()

    def describe(self) -> str:
        return f"{', '.join(map(str, self.paths))} ({self.field})"


@dataclass(frozen=True)
class Texts:
    """Texts in memory; every text is a document."""

    texts: tuple[str, ...]
    wikitext: bool = False

    def pieces(self) -> Iterator[Piece]:
        for done, text in enumerate(self.texts, 1):
            yield from lines_of(text, done)

    def size(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        return hash_texts(self.texts)

    def describe(self) -> str:
        return f"{len(self.texts)} texts"


def lines_of(text: str, done: int) -> Iterator[Piece]:
    """Yield the non-blank lines of a text that is a document."""
    new = True
    for line in text.split("\n"):
        if stripped := line.strip():
            yield stripped, new, done
            new = False

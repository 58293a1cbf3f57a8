"""Rows of a Hugging Face dataset as a source of text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyengine.errors import PyengineError
from pyengine.lines import check_text, hash_texts
from pyengine.sources import Piece, lines_of
from pyengine.text import heading_level

BATCH_ROWS = 1000


@dataclass(frozen=True, eq=False)
class DatasetRows:
    """The rows of a Hugging Face dataset; a row is a document, but WikiText rows are lines."""

    rows: Any
    field: str
    name: str
    wikitext: bool = False

    def pieces(self) -> Iterator[Piece]:
        fresh = True
        for done, text in enumerate(self._texts(), 1):
            if not self.wikitext:
                yield from lines_of(text, done)
            elif text.strip():
                yield text.strip(), fresh or heading_level(text) == 1, done
                fresh = False

    def _texts(self) -> Iterator[str]:
        number = 0
        for batch in self._batches():
            if self.field not in batch:
                known = ", ".join(batch)
                raise PyengineError(
                    f"{self.name}: row {number}: no field {self.field!r} (there is: {known})"
                )
            for text in batch[self.field]:
                yield check_text(text, f"{self.name}: row {number}: field {self.field!r}")
                number += 1

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Yield columns of rows; the library is many times faster by batch than row by row."""
        if hasattr(self.rows, "iter"):
            yield from self.rows.iter(batch_size=BATCH_ROWS)
        else:
            yield from ({name: [value] for name, value in row.items()} for row in self.rows)

    def size(self) -> int:
        return len(self.rows) if hasattr(self.rows, "__len__") else 0

    def fingerprint(self) -> str:
        return hash_texts(self._texts())

    def describe(self) -> str:
        return self.name


def load_dataset(name: Any, config: str | None, split: str) -> tuple[Any, str]:
    """Return a dataset's rows and its name; `name` may be the rows themselves.

    Raises:
        PyengineError: if the datasets library is missing, or cannot load it.
    """
    if not isinstance(name, str):
        info = getattr(name, "info", None)
        return name, str(getattr(info, "dataset_name", None) or type(name).__name__)
    try:
        import datasets
    except ImportError as error:
        raise PyengineError(
            f"dataset {name!r} needs the datasets library: pip install 'pyengine[datasets]'"
        ) from error
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PyengineError(f"cannot load dataset {name!r}: {reason}") from error
    return rows, "/".join(part for part in (name, config, split) if part)

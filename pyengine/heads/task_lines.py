"""Lines of a task's files, and examples made of them."""

import codecs
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyengine.errors import PyengineError
from pyengine.heads.task import Examples, labelled
from pyengine.lines import check_files, read_bytes

UTF8, LATIN1 = "utf-8", "latin-1"


class Row(NamedTuple):
    """One example as a file has it."""

    path: Path
    number: int
    target: str
    first: str
    second: str | None = None

    @property
    def where(self) -> str:
        return f"{self.path}:{self.number}"


def lines_of(path: Path, encoding: str = UTF8) -> Iterator[tuple[int, str]]:
    r"""Yield (number from 1, line without its end) of a file, plain, `.gz` or `.zst`.

    Lines end in `\n` or `\r\n` only: of the other characters that end a line to Python some are
    letters of a text in another encoding. A byte order mark is left out.

    Raises:
        PyengineError: if the file cannot be read, or is not in this encoding (with the line).
    """
    data = read_bytes(path).removeprefix(codecs.BOM_UTF8)
    for number, raw in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            yield number, raw.removesuffix(b"\r").decode(encoding)
        except UnicodeDecodeError as error:
            raise PyengineError(f"{path}:{number}: not {encoding}: {error.reason}") from error


def filled_lines(path: Path, encoding: str = UTF8) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines that are not blank."""
    return ((number, line) for number, line in lines_of(path, encoding) if line.strip())


def split_fields(path: Path, number: int, line: str, least: int) -> list[str]:
    """Cut a line at its tabs.

    Raises:
        PyengineError: if there are fewer than `least` fields.
    """
    fields = line.split("\t")
    if len(fields) < least:
        raise PyengineError(f"{path}:{number}: {len(fields)} fields between tabs, not {least}")
    return fields


def squeezed(text: str) -> str:
    """Return the words of a text with single spaces between them."""
    return " ".join(text.split())


def class_examples(rows: Sequence[Row], labels: Sequence[str]) -> Examples:
    """Make examples of rows whose targets are names of classes.

    Raises:
        PyengineError: for a class that is not among `labels`, with its line.
    """
    known = frozenset(labels)
    for row in rows:
        if row.target not in known:
            raise PyengineError(
                f"{row.where}: the label {row.target!r} is not one of {_listed(labels)}"
            )
    return _examples(rows, labelled([row.target for row in rows], labels))


def score_examples(rows: Sequence[Row]) -> Examples:
    """Make examples of rows whose targets are scores.

    Raises:
        PyengineError: for a score that is missing or not a finite number, with its line.
    """
    return _examples(rows, np.array([_score(row) for row in rows], np.float64))


def find_files(
    task: str, data: str | Path | None, layouts: Sequence[Sequence[str]], folder: str = "downstream"
) -> tuple[Path, ...]:
    """Find the files of a task of SentEval.

    Args:
        task: its name, for errors.
        data: the folder of SentEval's data, or the one in it that holds the tasks.
        layouts: the same files under different names; the first layout that has any is taken.
        folder: where SentEval has tasks of the kind.

    Raises:
        PyengineError: if none has any file, or one file is missing.
    """
    if data is None:
        raise PyengineError(f"the task {task} needs the folder of SentEval's data (data=, --data)")
    data = Path(data)
    if not data.is_dir():
        raise PyengineError(f"no such folder: {data}")
    for root in (data / folder, data):
        for layout in layouts:
            paths = [root / name for name in layout]
            if any(path.exists() for path in paths):
                return check_files(paths)
    wanted = " nor ".join(layout[0] for layout in layouts)
    raise PyengineError(f"the task {task} is not in {data}: neither it nor {folder}/ has {wanted}")


def _examples(rows: Sequence[Row], targets: np.ndarray) -> Examples:
    first = tuple(squeezed(row.first) for row in rows)
    if all(row.second is None for row in rows):
        return Examples(first, None, targets)
    return Examples(first, tuple(squeezed(row.second or "") for row in rows), targets)


def _score(row: Row) -> float:
    try:
        score = float(row.target)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise PyengineError(f"{row.where}: the score {row.target!r} is not a finite number")
    return score


def _listed(labels: Sequence[str]) -> str:
    more = f", … ({len(labels)} in all)" if len(labels) > 12 else ""
    return ", ".join(labels[:12]) + more

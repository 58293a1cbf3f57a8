"""Part files: the finished blocks of a run whose result is a table, kept until all are there.

A block's files come first, its marker last: a JSON file with their checksums and the counters. A
block without a marker has not been done.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.files import atomic_write_text, sha256_file

FOLDER = "parts"


@dataclass(frozen=True)
class Part:
    """One finished block.

    Attributes:
        folder: where its files are.
        block: its number.
        units: its first unit, and the one after its last.
        files: SHA-256 by kind of file (`predictions.parquet`, ...).
        record: its counters.
    """

    folder: Path
    block: int
    units: tuple[int, int]
    files: dict[str, str]
    record: dict[str, Any]

    def path(self, kind: str) -> Path:
        """Name one of its files."""
        return part_path(self.folder, self.block, kind)

    def check(self) -> None:
        """Compare the files with their checksums.

        Raises:
            PyengineError: if one is damaged.
        """
        for kind, expected in self.files.items():
            path = self.path(kind)
            if not path.exists() or sha256_file(path) != expected:
                raise PyengineError(
                    f"{path} is damaged: it does not match its checksum; delete it, and run its "
                    "command again"
                )


def part_path(folder: Path, block: int, kind: str) -> Path:
    """Name a file of a block; `folder` is the run's `parts`."""
    return folder / f"{block:06d}.{kind}"


def finish_part(
    folder: Path,
    block: int,
    units: tuple[int, int],
    kinds: Iterable[str],
    record: Mapping[str, Any],
) -> Part:
    """Vouch for a block whose files have been written."""
    files = {kind: sha256_file(part_path(folder, block, kind)) for kind in kinds}
    marker = {"block": block, "units": list(units), "files": files, "record": dict(record)}
    text = json.dumps(marker, indent=2, sort_keys=True) + "\n"
    atomic_write_text(part_path(folder, block, "json"), text)
    return Part(folder, block, units, files, dict(record))


def find_parts(run: Path) -> list[Part]:
    """List the finished blocks in a run directory, in order; those with a file gone are left out.

    Raises:
        PyengineError: if a marker is damaged.
    """
    found = [_read(path) for path in sorted((run / FOLDER).glob("*.json"))]
    return [part for part in found if all(part.path(kind).exists() for kind in part.files)]


def parts_done(folder: Path, blocks: range) -> dict[int, Part]:
    """Find the blocks that a run directory holds already, checked.

    Raises:
        PyengineError: if one is damaged.
    """
    done = {part.block: part for part in find_parts(folder) if part.block in blocks}
    for part in done.values():
        part.check()
    return done


def counting(total: int, report: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """Return what adds up tokens that are done, and reports (done, in all)."""
    done = 0

    def add(n_tokens: int) -> None:
        nonlocal done
        done += n_tokens
        if report is not None:
            report(done, total)

    return add


def _read(path: Path) -> Part:
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        first, last = marker["units"]
        return Part(path.parent, marker["block"], (first, last), marker["files"], marker["record"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PyengineError(
            f"{path} is damaged: {error}; delete it, and run its command again"
        ) from error

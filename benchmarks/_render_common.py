"""What the rendered sections share: results files, tables, the line that names the machine."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks import _machine

SAVE_THEMSELVES = ("cpu-accuracy", "launches")  # stems without options
NOT_YET = "not yet measured"
WIKITEXT_103 = 118e6  # tokens under GPT-2's tokenizer


class Record(NamedTuple):
    """A results file."""

    name: str
    command: str
    machine: dict[str, Any]
    figures: dict[str, Any]
    inputs: Mapping[str, str] = MappingProxyType({})  # sha256 of the files read, by name


def load(name: str) -> Record | None:
    """Read a results file by its name; None where there is none."""
    path = _machine.RESULTS / f"{name}.json"
    return read(path) if path.exists() else None


def need(name: str) -> Record:
    """Read a results file that must be there."""
    return read(_machine.RESULTS / f"{name}.json")


def gpu_records() -> list[Record]:
    """Read the results of every GPU."""
    return [read(path) for path in sorted(_machine.RESULTS.glob("gpu-*.json"))]


def read(path: Path) -> Record:
    """Read a results file."""
    return Record(path.stem, **json.loads(path.read_text(encoding="utf-8")))


def source(*records: Record | None) -> str:
    """Name the command, the machine, the versions and the date of every results file."""
    return "  \n".join(_origin(record) for record in records if record is not None)


def _origin(record: Record) -> str:
    at, versions = record.machine, record.machine["versions"]
    threads = f"{at['threads']} thread{'s' if at['threads'] > 1 else ''}"
    where = at.get("gpu", f"{at['cpu']}, {threads}")
    using = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers"))
    return (
        f"<sub>`{_command(record)}`: {where}; {using}; {at['date']}, {at['commit']} "
        f"(`{record.name}.json`)</sub>"
    )


def _command(record: Record) -> str:
    """Return the command that writes the record again, with files elsewhere by their names."""
    words = [Path(word).name if word.startswith("/") else word for word in record.command.split()]
    saved = {"--save"} & {*words} or record.name in SAVE_THEMSELVES
    return " ".join(words if saved else [*words, "--save", record.name])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[f" {cell} " if cell else " " for cell in line] for line in lines]
    return "\n".join(f"|{'|'.join(line)}|" for line in cells)


def wrap(text: str) -> str:
    """Break a paragraph into lines."""
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def paragraphs(*parts: str) -> str:
    """Put a blank line between parts."""
    return "\n\n".join(part for part in parts if part)


def mib(n_bytes: float) -> str:
    """Say bytes as MiB."""
    return f"{n_bytes / 2**20:,.0f} MiB"


def disk(n_bytes: float) -> str:
    """Say bytes as disks are sold: `184 GB`, `21.7 TB`."""
    return f"{n_bytes / 1e12:,.1f} TB" if n_bytes >= 1e12 else f"{n_bytes / 1e9:,.0f} GB"

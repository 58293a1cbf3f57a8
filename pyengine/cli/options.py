"""Options that several commands share, and the parsing of their values."""

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(help="A run directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def indices(text: str | None) -> list[int] | None:
    """Parse `0-3,7` into [0, 1, 2, 3, 7].

    Raises:
        typer.BadParameter: if it is not a list of numbers and ranges.
    """
    if text is None:
        return None
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise typer.BadParameter(f"{text!r} is not a list like 0-3,7")
        if dash and int(last) < int(first):
            raise typer.BadParameter(f"{part!r} runs backwards")
        chosen += range(int(first), int(last if dash else first) + 1)
    return chosen


def shard(text: str) -> tuple[int, int]:
    """Parse `i/n`, counting from 0.

    Raises:
        typer.BadParameter: if it is not of that form, or i is not below n.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise typer.BadParameter(f"{text!r} is not a shard like 0/4 (counted from 0)")
    return int(index), int(count)

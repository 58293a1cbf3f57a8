"""What the terminal shows: progress on stderr, tables on stdout."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pyengine.analyses.trigger_result import Example, TriggerExamples

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# Without a terminal a line is printed this often instead of a moving bar.
LOG_SECONDS = 10.0

# Called with (stage, done, total); a new stage opens a new bar.
Advance = Callable[[str, int, int], None]

STAGE_UNITS = {
    "tokenising": "bytes",
    "values": "values",
    "reading": "bytes",
    "reading activations": "layers",
    "probing": "probes",
    "checking": "facts",
    "facts": "prompts",
    "all facts": "facts",
    "solving": "layers",
    "training": "steps",
    "timing": "units",
    "r²": "maps",
    "scores": "readings",
    "transfer": "readings",
    "mat sub-modules": "rows",
    "affine sub-modules": "rows",
}

# A text that closes a row of a table has at least so many characters.
LEAST_ROOM = 12

# A bar grows by eighths of a character.
_EIGHTHS = " ▏▎▍▌▋▊▉"


class _Rate(ProgressColumn):
    """Units per second since the bar appeared."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = STAGE_UNITS.get(task.description, "tokens")
        return Text("" if speed is None else f"{human(speed)} {unit}/s")


@contextlib.contextmanager
def progress() -> Iterator[Advance]:
    """Show a bar per stage with the rate and the time left; plain lines without a terminal."""
    if not err.is_terminal:
        yield _LogLines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                # A resumed run starts with work done: the rate counts from there.
                tasks[stage] = bars.add_task(stage, total=total, completed=done)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


class _LogLines:
    """Progress as plain lines, for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._began: dict[str, tuple[float, int]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        started, first = self._began.setdefault(stage, (now, done))
        if now - self._last < LOG_SECONDS or done <= first:
            return
        self._last = now
        rate = (done - first) / (now - started)
        unit = STAGE_UNITS.get(stage, "tokens")
        print(
            f"{stage}: {done / max(total, 1):.0%}, {human(rate)} {unit}/s, "
            f"{(total - done) / rate:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def human(number: float) -> str:
    """Write 1234567 as 1.23M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def bar(value: float | None, whole: float, width: int) -> str:
    """Draw a bar of `width` characters where `value` is `whole`; a sliver for any above 0."""
    if not value or value != value or whole <= 0:
        return ""
    eighths = max(1, min(round(8 * width * value / whole), 8 * width))
    return f"{'█' * (eighths // 8)}{_EIGHTHS[eighths % 8]}".rstrip()


def percent(value: float | None) -> str:
    """Write 0.0123 as `1.2%`, an unknown share as `–`; two digits that count, at most 4 places."""
    if value is None or value != value:
        return "–"
    for least, places in ((0.1, 0), (0.01, 1), (0.001, 2), (0.0001, 3)):
        if value >= least:
            return f"{value:.{places}%}"
    return "0%" if value == 0 else f"{value:.4%}" if value >= 5e-7 else "<0.0001%"


def signed_percent(value: float | None) -> str:
    """Write a change of -0.123 as `-12%`, one of 21 as `+2,100%`, an unknown one as `–`."""
    if value is None or value != value:
        return "–"
    if abs(value) < 0.0005:
        return "0%"
    return f"{value:+,.{0 if abs(value) >= 0.1 else 1}%}"


def number(value: float | None, places: int = 0) -> str:
    """Write a number with thousands separated, an unknown one as `–`."""
    return "–" if value is None or value != value else f"{value:,.{places}f}"


def quoted(text: str | None, width: int = 16) -> str:
    """Show a token with its white space in view, shortened; an unknown one as `–`."""
    return "–" if text is None else head(repr(text), width)


def columns(*names: str, left: tuple[str, ...] = ()) -> Table:
    """Start a table of numbers, right-aligned except for `left`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def add_rows(table: Table, rows: Sequence[Sequence[str]], width: int) -> None:
    """Add rows to what `columns` started; the last column is cut to the room the others leave."""
    names = [str(column.header) for column in table.columns]
    widths = [max(map(len, cells)) + 2 for cells in zip(names, *rows, strict=True)]
    room = max(width - sum(widths[:-1]), LEAST_ROOM)
    for *cells, last in rows:
        table.add_row(*map(Text, cells), Text(head(last, room)))


def facts(rows: dict[str, str]) -> Table:
    """Lay out names and what is said about them."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    return table


def example_table(
    triggers: "TriggerExamples", layer: int, dim: int, rows: int, width: int
) -> Table:
    """Lay out one key's trigger examples: the prefix, «the firing token», what follows."""
    table = Table(title=f"layer {layer}, dim {dim}", title_justify="left", box=None, pad_edge=False)
    table.add_column("rank", justify="right", style="dim")
    table.add_column("score", justify="right")
    table.add_column("unit", justify="right", style="dim")
    table.add_column("prefix «firing token» what follows", no_wrap=True, overflow="ellipsis")
    for example in triggers.examples(layer, dim)[:rows]:
        table.add_row(
            str(example.rank),
            f"{example.score:.3f}",
            str(example.unit),
            marked(triggers, example, width),
        )
    if not table.row_count:
        table.add_row("", "", "", Text("no examples", style="dim"))
    return table


def marked(triggers: "TriggerExamples", example: "Example", width: int) -> Text:
    """Mark the firing token inside its unit, keeping the end of the prefix in view."""
    tokens, text = triggers.unit_tokens(example.unit), triggers.text
    rest = tokens[example.position + 1 :]
    firing = text.token(example.token)
    gap_before = " " if firing.startswith(" ") and example.position else ""
    gap_after = " " if rest and text.token(rest[0]).startswith(" ") else ""
    before = one_line(text.decode(tokens[: example.position]))
    after = one_line(text.decode(rest))
    shown = firing.strip() or "␣"
    room = max(width - len(shown) - 4, 8)
    shown_before = tail(before, max(room * 2 // 3, room - len(after)))
    shown_after = head(after, room - len(shown_before))
    return Text.assemble(
        f"{shown_before}{gap_before}",
        (f"«{shown}»", "bold yellow"),
        (f"{gap_after}{shown_after}", "dim"),
    )


def one_line(text: str) -> str:
    """Turn every run of white space into one space."""
    return " ".join(text.split())


def tail(text: str, width: int) -> str:
    """Keep the end of a text that is too long."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def head(text: str, width: int) -> str:
    """Keep the beginning of a text that is too long."""
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"

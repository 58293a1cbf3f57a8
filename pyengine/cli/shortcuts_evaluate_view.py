"""How the scores of linear shortcuts are shown in the terminal."""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pyengine.cli.display import bar, columns, number, out, percent
from pyengine.cli.shortcuts_wall_clock import print_wall_clock

if TYPE_CHECKING:
    import pyarrow as pa

    from pyengine.shortcuts.evaluation import Evaluation

Row = dict[str, Any]
Write = Callable[[float | None], str]

BAR = 10
ITSELF = "the model"
# Of a terminal that has room for intervals.
LEAST_WIDTH = 110


def nats(value: float | None) -> str:
    """Write 1.234 as `1.23`."""
    return number(value, 2)


# Heading -> column, and how it is written.
SHOWN: dict[str, tuple[str, Write]] = {
    "P@1": ("precision@1", percent),
    "P@10": ("precision@10", percent),
    "surprisal": ("surprisal", nats),
    "KL": ("kl", nats),
}


def summary(found: "Evaluation") -> dict[str, Any]:
    """Return what `--json` prints: tables as rows, null where one was not asked for.

    Of r² that of maps to the last layer; all else is in the run's files.
    """
    points = found.manifest["question"]["fit"]["points"]
    r2 = [
        {name: row[name] for name in ("stack", "source", "mapping", "r2", "residual_r2")}
        for stack in points
        for row in _of_last(found, stack)
    ]
    names = ("layers", "savings", "transfer", "wall_clock")
    tables = {name: getattr(found, name) for name in names}
    return {"n_samples": found.n_samples, "r2": r2} | {
        name: None if table is None else table.to_pylist() for name, table in tables.items()
    }


def show_evaluation(found: "Evaluation", as_json: bool) -> None:
    """Show a run as a whole."""
    if as_json:
        print(json.dumps(summary(found)))
    else:
        print_evaluation(found)


def print_evaluation(found: "Evaluation") -> None:
    """Print r², the scores of every layer and mapping, what early exits save, and their times."""
    scored = {row["stack"] for row in _rows(found.layers)}
    for stack in found.manifest["question"]["fit"]["points"]:
        if stack in scored:
            _print_scores(found, stack)
        else:
            _print_r2(found, stack)
    if found.savings is not None:
        _print_savings(found)
    if found.wall_clock is not None:
        print_wall_clock(found.wall_clock)


def _print_scores(found: "Evaluation", stack: str) -> None:
    r2 = {(row["source"], row["mapping"]): row["r2"] for row in _of_last(found, stack)}
    rows = _rows(found.layers)
    wide = out.width >= LEAST_WIDTH and rows[0]["kl_low"] is not None
    intervals = "; 95% intervals over units" if wide else ""
    out.print(f"{stack}: {rows[0]['n']:,} validation tokens{intervals}")
    names = [part for name in SHOWN for part in ((name, "") if wide else (name,))]
    table = columns("layer", "mapping", "r²", *names, left=("mapping", ""))
    for layer, row in _by_layer(rows):
        cells = [layer, row["mapping"], number(r2.get((row["layer"], row["mapping"])), 3)]
        for metric, write in SHOWN.values():
            ends = (row[f"{metric}_low"], row[f"{metric}_high"])
            cells += [write(row[metric]), _between(*ends, write)] if wide else [write(row[metric])]
        table.add_row(*cells)
    out.print(table)
    out.print(
        "r²: of the map to the last layer, mean over coordinates. P@k: the mapped state's best "
        "token is among the model's own k best. surprisal: -ln of the model's own probability of "
        "it. KL: model's own || mapped. Both in nats",
        style="dim",
    )


def _by_layer(rows: list[Row]) -> Iterator[tuple[str, Row]]:
    """Yield rows by layer, its number beside the first; at the last one all are the model."""
    last = max(row["layer"] for row in rows)
    for layer in range(last + 1):
        of_layer = [row for row in rows if row["layer"] == layer]
        if layer == last:
            of_layer = [of_layer[0] | {"mapping": ITSELF}]
        for place, row in enumerate(of_layer):
            yield "" if place else str(layer), row


def _print_r2(found: "Evaluation", stack: str) -> None:
    out.print(f"{stack}: leads to no output head, so r² alone")
    table = columns("layer", "mapping", "", "r²", "of the change", left=("mapping", ""))
    for row in _of_last(found, stack):
        r2, residual = (number(row[name], 3) for name in ("r2", "residual_r2"))
        table.add_row(str(row["source"]), row["mapping"], bar(row["r2"], 1, BAR), r2, residual)
    out.print(table)


def _print_savings(found: "Evaluation") -> None:
    out.print("\nEarly exit: the fewest layers at which 95% of the best tokens are the model's own")
    table = columns("mapping", "exit", "layers", "saved", "", left=("mapping", "exit", ""))
    for row in _rows(found.savings):
        saved = [percent(row["saved"]), _between(row["low"], row["high"], percent)]
        table.add_row(row["mapping"], row["rule"], number(row["mean_layer"], 2), *saved)
    out.print(table)


def _of_last(found: "Evaluation", stack: str) -> list[Row]:
    """Return the rows of r² of maps to a stack's last layer."""
    last = found.manifest["question"]["fit"]["points"][stack]["n_blocks"]
    return [
        row
        for row in _rows(found.r2)
        if (row["stack"], row["target"], row["step"]) == (stack, last, None)
    ]


def _between(low: float | None, high: float | None, write: Write) -> str:
    """Write an interval, `27%-38%`, dim; `–` without bootstrap."""
    return "–" if low is None else f"[dim]{write(low)}-{write(high)}[/]"


def _rows(table: "pa.Table | None") -> list[Row]:
    return [] if table is None else table.to_pylist()

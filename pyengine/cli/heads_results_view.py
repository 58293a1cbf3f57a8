"""How results of probes are shown in the terminal."""

from typing import Any

from pyengine.cli.display import columns, number, out

Row = dict[str, Any]
PLACES = {"accuracy": 2, "pearson": 3}  # decimals


def print_bests(rows: list[Row]) -> None:
    """Print the best head, or layer, of each location for each task."""
    selective = any(row["selectivity"] is not None for row in rows)
    names = ("dev", "test", *(("selectivity",) if selective else ()), "mean", "majority", "chance")
    table = columns("task", "best", *names, left=("task", "best"))
    for row in rows:
        cells = [score(row[name], row["metric"]) for name in names]
        table.add_row(row["task"], place(row), *cells)
    out.print(table)
    for row in rows:
        if n := row["n_collapsed"]:
            where = f"{row['task']}, {row['location']}{', whole' if is_whole(row) else ''}"
            out.print(f"{where}: {n} of {row['n']} have collapsed", style="dim")


def is_whole(row: Row) -> bool:
    """Whether a row is of all heads of a layer together."""
    return row["whole"] and row["location"] in ("head", "cross")


def place(row: Row) -> str:
    """Write `head 3.7`, `head 3, whole` or `block 3`."""
    name = f"{row['location']} {row['layer']}"
    if row["head"] is not None:
        return f"{name}.{row['head']}"
    return f"{name}, whole" if is_whole(row) else name


def read_from(row: Row) -> str:
    """Write what a fine-tuning reads: `block 11 (last)`, `12 heads`."""
    if row["heads"]:
        return f"{len(row['heads'])} heads"
    return f"block {row['layer']} ({row['representation']})"


def spread(mean: float, deviation: float | None, metric: str) -> str:
    """Write a mean over seeds and its standard deviation; of one seed the score alone."""
    values = [mean] if deviation is None else [mean, deviation]
    return " ± ".join(score(value, metric) for value in values)


def score(value: float | None, metric: str) -> str:
    """Write an accuracy as `83.60`, a correlation as `0.652`, an unknown one as `–`."""
    return number(value, PLACES.get(metric, PLACES["pearson"]))

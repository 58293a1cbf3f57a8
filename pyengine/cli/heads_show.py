"""`pyengine heads show`: the paper's table of what layers and heads score."""

import itertools
import json
from collections import Counter
from typing import Annotated, Any

import typer

from pyengine.cli.display import columns, err, out
from pyengine.cli.heads_options import ResultsArgument, WhereOption, open_results
from pyengine.cli.heads_results_view import score
from pyengine.cli.options import JsonOption

Row = dict[str, Any]


def show(
    results: ResultsArgument,
    task: Annotated[
        list[str] | None,
        typer.Option(help="May be repeated; default all.", show_default=False),
    ] = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the last layer, the best one, the best head and the best heads together score.

    Layers and heads are chosen on dev, scores are on test.

    Example: pyengine heads show runs/results
    """
    from pyengine.heads.results import ALIKE
    from pyengine.heads.summary import missing

    found = open_results(results, where)
    for name in task or ():
        found.where(task=name)  # refused with the tasks that there are
    rows = [row for row in found.summary().to_pylist() if not task or row["task"] in task]
    if as_json:
        print(json.dumps([_known(row) for row in rows]))
        return
    ways = [list(of) for _, of in itertools.groupby(rows, lambda row: [row[n] for n in ALIKE])]
    titles = Counter(map(_title, (of[0] for of in ways)))
    for of in ways:
        _print_way(of, told=titles[_title(of[0])] > 1)
    for line in missing(rows, results):
        err.print(line, style="dim")


def _title(row: Row) -> str:
    return f"{row['model']}, {row['probe']}; on test"


def _print_way(rows: list[Row], told: bool) -> None:
    """Print the rows of one way; where its title stands elsewhere too, with what tells it apart."""
    out.print(_title(rows[0]), style="bold")
    if told:
        out.print(f"bank {rows[0]['bank'][:8]}; {rows[0]['settings']}", style="dim")
    table = columns(
        *("task", "last layer", "best layer", "best head", "n heads", "majority", "chance"),
        left=("task",),
    )
    for row in rows:
        metric = row["metric"]
        table.add_row(
            row["task"] + ("*" if row["chosen_on"] == "test" else ""),
            _at(row["last_layer"], row["last_test"], metric),
            _at(row["best_layer"], row["best_layer_test"], metric),
            _at(_head(row), row["head_test"], metric),
            _at(row["n"], row["n_best_test"], metric),
            *(score(row[name], metric) for name in ("majority", "chance")),
        )
    out.print(table)
    if any(row["chosen_on"] == "test" for row in rows):
        out.print("* no dev set: chosen on test", style="dim")
    for row in rows:
        if row["n_collapsed"]:
            share = f"{row['n_collapsed']} of {row['n_heads']} heads"
            out.print(f"{row['task']}: {share} have collapsed", style="dim")


def _head(row: Row) -> str | None:
    return None if row["head"] is None else f"{row['head_layer']}.{row['head']}"


def _at(place: object, value: float | None, metric: str) -> str:
    """Write where, dim, and the score; `–` for none."""
    return "–" if value is None else f"[dim]{place}[/] {score(value, metric)}"


def _known(row: Row) -> Row:
    return {name: None if value != value else value for name, value in row.items()}

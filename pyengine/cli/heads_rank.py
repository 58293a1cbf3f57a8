"""`pyengine heads rank`: the heads of a task, best first."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli.display import columns, err, out
from pyengine.cli.heads_options import ResultsArgument, WhereOption, open_results
from pyengine.cli.heads_results_view import score
from pyengine.cli.options import JsonOption

if TYPE_CHECKING:
    from pyengine.heads.results import HeadResults


def rank(
    results: ResultsArgument,
    task: Annotated[str, typer.Option(help="Whose heads.")],
    n: Annotated[int, typer.Option(min=1, help="How many to show.")] = 20,
    location: Annotated[str, typer.Option(help="head, cross, block, ffn or neurons.")] = "head",
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the heads that know most of a task, best first on dev.

    Example: pyengine heads rank runs/results --task TREC --n 12
    """
    found = open_results(results, where).where(task=task)
    ranked = found.ranked(task, location=location)
    rows = _rows(found, task, location, ranked[:n])
    if as_json:
        print(json.dumps(rows))
        return
    metric = found.metric(task)
    more = [name for name in ("control", "selectivity") if rows[0][name] is not None]
    table = columns("rank", "layer", "head", "dev", "test", *more, "", left=("",))
    for row in rows:
        cells = [score(row[name], metric) for name in ("dev", "test", *more)]
        head = "–" if row["head"] is None else str(row["head"])
        flag = "[dim]collapsed[/]" if row["collapsed"] else ""
        table.add_row(str(row["rank"]), str(row["layer"]), head, *cells, flag)
    out.print(table)
    majority, chance = (score(rows[0][name], metric) for name in ("majority", "chance"))
    beside = f"; majority {majority}, chance {chance}" if metric == "accuracy" else ""
    out.print(f"{metric} of {task}, {len(rows)} of {len(ranked)}{beside}", style="dim")
    if rows[0]["dev"] is None:
        err.print(f"note: {task} has no dev set: ranked by test")


def _rows(
    found: "HeadResults", task: str, location: str, ranked: list[tuple[int, int]]
) -> list[dict[str, Any]]:
    from pyengine.heads.places import WITH_HEADS

    names = ("dev", "test", "control", "selectivity", "collapsed", "majority", "chance")
    scores = {name: found.scores(task, location, name) for name in names}
    rows: list[dict[str, Any]] = []
    for i, (layer, head) in enumerate(ranked):
        values = {name: float(scores[name][layer, head]) for name in names}
        known = {name: None if value != value else value for name, value in values.items()}
        at = {"layer": layer, "head": head if location in WITH_HEADS else None}
        rows.append({"rank": i + 1, **at, **known, "collapsed": values["collapsed"] > 0})
    return rows

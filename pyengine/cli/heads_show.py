"""`pyengine heads show`: the paper's table of what layers and heads score; fine-tunings."""

import itertools
import json
from collections import Counter
from typing import Annotated, Any

import typer

from pyengine.cli.display import columns, err, out
from pyengine.cli.heads_options import ResultsArgument, WhereOption, open_results
from pyengine.cli.heads_results_view import read_from, score, spread
from pyengine.cli.options import JsonOption

Row = dict[str, Any]
COSINE = "cosine"  # the probe of tasks that nothing is trained for


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

    Layers and heads are chosen on dev, scores are on test. Below stands what was fine-tuned.

    Example: pyengine heads show runs/results
    """
    from pyengine.heads.summary import missing

    found = open_results(results, where)
    for name in task or ():
        found.where(task=name)  # refused with the tasks that there are
    rows = [row for row in found.summary().to_pylist() if not task or row["task"] in task]
    tuned = [row for row in found.finetuned().to_pylist() if not task or row["task"] in task]
    if as_json:
        known = {"probes": [*map(_known, rows)], "finetunes": [*map(_known, tuned)]}
        print(json.dumps(known))
        return
    tables = _tables(rows)
    titles = Counter(map(_title, tables))
    for of in tables:
        _print_table(of, told=titles[_title(of)] > 1)
    for _, group in itertools.groupby(sorted(tuned, key=_trained_alike), _trained_alike):
        _print_tuned(list(group))
    for line in missing(rows, results):
        err.print(line, style="dim")


def _tables(rows: list[Row]) -> list[list[Row]]:
    """Put rows together that one run of `heads probe` makes, each task once."""
    found: list[list[Row]] = []
    for row in rows:
        fitting = (table for table in found if all(_together(row, other) for other in table))
        table = next(fitting, None)
        if table is None:
            found.append([row])
        else:
            table.append(row)
    return [sorted(table, key=lambda row: row["task"].lower()) for table in found]


def _together(one: Row, other: Row) -> bool:
    """Whether two rows may stand in one table: scores are trained otherwise than classes."""
    same = all(one[name] == other[name] for name in ("model", "bank"))
    if not same or one["task"] == other["task"]:
        return False
    if COSINE in (one["probe"], other["probe"]):
        return True
    alike = one["settings"] == other["settings"] or one["metric"] != other["metric"]
    return alike and one["probe"] == other["probe"]


def _title(rows: list[Row]) -> str:
    first = _trained(rows)
    return f"{first['model']}, {first['probe']}; on test"


def _trained(rows: list[Row]) -> Row:
    """Return a row that says how probes were trained, if there is one."""
    return min(rows, key=lambda row: row["probe"] == COSINE)


def _print_table(rows: list[Row], told: bool) -> None:
    """Print rows; where their title stands elsewhere too, with what tells them apart."""
    out.print(_title(rows), style="bold")
    if told:
        first = _trained(rows)
        out.print(f"bank {first['bank'][:8]}; {first['settings']}", style="dim")
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


def _trained_alike(row: Row) -> tuple[str, int, float]:
    return row["model"], row["epochs"], row["learning_rate"]


def _print_tuned(rows: list[Row]) -> None:
    model, epochs, rate = _trained_alike(rows[0])
    how = f"{epochs} epoch{'s' * (epochs > 1)}, {rate:g}"
    out.print(f"{model}, fine-tuned ({how}); mean ± deviation over seeds", style="bold")
    named = ("task", "from", "metric")
    table = columns(*named, "seeds", "dev", "test", left=named)
    for row in rows:
        metric = row["metric"]
        cells = (spread(row[part], row[f"{part}_sd"], metric) for part in ("dev", "test"))
        table.add_row(row["task"], read_from(row), metric, str(row["n_seeds"]), *cells)
    out.print(table)


def _head(row: Row) -> str | None:
    return None if row["head"] is None else f"{row['head_layer']}.{row['head']}"


def _at(place: object, value: float | None, metric: str) -> str:
    """Write where, dim, and the score; `–` for none."""
    return "–" if value is None else f"[dim]{place}[/] {score(value, metric)}"


def _known(row: Row) -> Row:
    return {name: None if value != value else value for name, value in row.items()}

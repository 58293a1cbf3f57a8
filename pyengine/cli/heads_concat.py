"""`pyengine heads concat`: what the best heads are worth together."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.display import bar, columns, err, out, progress
from pyengine.cli.heads_options import (
    BankArgument,
    ResultsArgument,
    WhereOption,
    open_bank,
    open_results,
)
from pyengine.cli.heads_results_view import score
from pyengine.cli.options import indices
from pyengine.errors import Interrupted

if TYPE_CHECKING:
    from pyengine.heads.bank import HeadBank
    from pyengine.heads.concat_table import Point
    from pyengine.heads.results import HeadResults

BAR = 18  # characters


def concat(
    bank: BankArgument,
    results: ResultsArgument,
    task: Annotated[str, typer.Option(help="Whose heads.")],
    n: Annotated[
        str, typer.Option(help="Numbers of heads, as 1,2,12 or 1-6,12; or all: 1, 2, ... to all.")
    ] = "all",
    step: Annotated[
        int | None, typer.Option(min=1, help="Every so many, from this number to all.")
    ] = None,
    kind: Annotated[str, typer.Option("--probe", help="logistic, mlp, ridge or lda.")] = "logistic",
    ranked_by: Annotated[
        str | None,
        typer.Option(help="The probe whose scores rank the heads; default the same one."),
    ] = None,
    senteval: Annotated[
        bool, typer.Option("--senteval", help="SentEval's settings, as `heads probe` has them.")
    ] = False,
    location: Annotated[str, typer.Option(help="head or cross.")] = "head",
    seed: Annotated[
        list[int] | None,
        typer.Option(help="May be repeated: one probe each; default 123.", show_default=False),
    ] = None,
    where: WhereOption = None,
    device: given.DeviceOption = "auto",
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Probe the n best heads of a task, side by side, for several n.

    Heads are ranked on dev; each n holds all heads of a smaller one. What the folder has already is
    not done again.

    Example: pyengine heads concat runs/bank runs/results --task TREC --n 1-12
    """
    from pyengine.heads.concat import concat_heads
    from pyengine.heads.concat_table import curve
    from pyengine.heads.probe_settings import SENTEVAL

    if step is not None and n != "all":
        raise typer.BadParameter("give --n or --step, not both")
    given.set_threads(threads)
    opened, found = open_bank(bank), open_results(results, where)
    n_heads = sum(place.n_parts for place in opened.places if place.location == location)
    wanted: Any = "all" if n == "all" else indices(n)
    if step is not None:
        wanted = list(range(step, n_heads + 1, step))
    try:
        with progress() as advance:
            rows = concat_heads(
                opened,
                found,
                task,
                wanted,
                seeds=seed or [123],
                probe=kind,
                settings=SENTEVAL if senteval else None,
                ranked_by=ranked_by,
                location=location,
                device=device,
                on_progress=lambda done, total: advance("probing", done, total),
            )
    except KeyboardInterrupt as stop:
        raise Interrupted(
            f"interrupted; the probes done so far are in {results}: run the same command again to "
            "go on"
        ) from stop
    points, widest = curve(rows, task), _as_wide(found, opened)
    if as_json:
        print(json.dumps([_record(point) for point in points]))
        return
    print_curve(points, rows.slice(0, 1).to_pylist()[0], widest)
    err.print(
        f"next: pyengine heads encode MODEL TEXTS --results {results} --task {task} "
        f"{'' if location == 'head' else f'--location {location} '}--out vectors.safetensors"
    )


def print_curve(points: "list[Point]", row: dict[str, Any], as_wide: int | None) -> None:
    """Print a line for each n.

    Args:
        points: ascending by n.
        row: of results, for the task, the metric and the majority class.
        as_wide: how many heads are as wide as the model.
    """
    from pyengine.heads.concat_table import best

    metric, task = row["metric"], row["task"]
    floor = row["majority"] if metric == "accuracy" else 0.0
    most = max(point.test for point in points) - floor
    marks = {as_wide: "model's width"} if as_wide else {}
    top = best(points).n
    on = "test" if points[0].dev != points[0].dev else "dev"
    table = columns("n", "width", "dev", "test", "", "", left=("",))
    for point in points:
        notes = [f"best on {on}"] if point.n == top else []
        notes += [marks[point.n]] if point.n in marks else []
        table.add_row(
            *(str(point.n), str(point.width)),
            *(score(value, metric) for value in (point.dev, point.test)),
            bar(max(point.test - floor, 0), most, BAR),
            ", ".join(notes),
        )
    out.print(table)
    above = f" above the majority class, {score(floor, metric)}" if metric == "accuracy" else ""
    out.print(f"{metric} of {task}; bars: test{above}", style="dim")


def _as_wide(results: "HeadResults", bank: "HeadBank") -> int | None:
    from pyengine.heads.summary import n_best

    return n_best(results.where(bank=bank.fingerprint).table)


def _record(point: "Point") -> dict[str, Any]:
    dev = None if point.dev != point.dev else point.dev
    return point._asdict() | {"dev": dev}

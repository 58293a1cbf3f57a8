"""`pyengine heads plot`: pictures of what heads know."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pyengine.cli.display import err
from pyengine.cli.heads_options import ResultsArgument, WhereOption, open_results


def plot(
    results: ResultsArgument,
    folder: Annotated[Path, typer.Option("--out", help="Folder to write the pictures to.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="May be repeated; default all.", show_default=False),
    ] = None,
    location: Annotated[str, typer.Option(help="head, or cross (T5).")] = "head",
    part: Annotated[
        str, typer.Option(help="Whose scores: dev, or test; without a dev set always test.")
    ] = "dev",
    format: Annotated[str, typer.Option(help="png, svg or pdf.")] = "png",
    where: WhereOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Draw heat maps, n-curves, depth profiles, focus, and how alike tasks are.

    Example: pyengine heads plot runs/results --out pictures --format svg
    """
    from pyengine.plots.heads import plot_heads

    files = plot_heads(
        open_results(results, where),
        folder,
        tasks=task,
        format=format,
        location=location,
        part=part,
        on_drawn=lambda path: err.print(f"wrote {path}"),
    )
    if as_json:
        print(json.dumps([str(path) for path in files]))

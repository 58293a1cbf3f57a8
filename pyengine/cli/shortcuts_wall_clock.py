"""The time that stopping early saves, beside the layers.

Times differ from run to run: they lie beside a result, which does not vouch for them.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyengine.cli.display import columns, out
from pyengine.cli.shortcuts_options import from_the_start
from pyengine.errors import PyengineError

if TYPE_CHECKING:
    import pyarrow as pa

    from pyengine.models import Model
    from pyengine.shortcuts.evaluation import Evaluation
    from pyengine.shortcuts.linear_map import LinearMap
    from pyengine.shortcuts.result import Shortcuts


def time_exits(
    found: "Evaluation",
    shortcuts: "Shortcuts",
    model: "Model",
    n_units: int,
    extra: "Mapping[str, Mapping[int, LinearMap]]",
    run: Path,
) -> "Evaluation":
    """Time each mapping's cheapest λ that agrees often enough, and write the table.

    Args:
        found: the evaluation, with early exits.
        shortcuts: the fit.
        model: the one that was fitted.
        n_units: how many validation units to run.
        extra: maps that were scored beside the fit's, by name.
        run: where the evaluation is kept.

    Returns:
        The evaluation with its times: one row per mapping, and the columns of `wall_clock`.

    Raises:
        PyengineError: if no stack leads to an output head.
    """
    import pyarrow as pa

    from pyengine.analyses.agreement_result import write_table
    from pyengine.shortcuts.evaluation import WALL_CLOCK
    from pyengine.shortcuts.wall_clock import wall_clock

    chosen = _cheapest(found)
    tables: list[pa.Table] = []
    with from_the_start() as advance:

        def told(done: int, total: int) -> None:
            advance("timing", len(tables) * total + done, len(chosen) * total)

        for name, lam in chosen.items():
            timed = wall_clock(
                model,
                shortcuts,
                lambdas=[lam],
                kind=extra.get(name, name),
                n_samples=n_units,
                on_progress=told,
            )
            tables.append(timed.add_column(0, "mapping", pa.array([name])))
    table = pa.concat_tables(tables)
    write_table(table, run / WALL_CLOCK)
    return replace(found, wall_clock=table)


def print_wall_clock(table: "pa.Table") -> None:
    """Print layers saved beside time saved."""
    out.print("\nReally stopping, one unit at a time, against whole passes")
    shown = columns("mapping", "λ", "layers saved", "time saved", "agrees", "whole", "stopping")
    shown.columns[0].justify = "left"
    for row in table.to_pylist():
        shares = (f"{row[name]:.0%}" for name in ("layers_saved", "time_saved", "agreement"))
        times = (f"{1000 * row[name]:,.1f} ms" for name in ("whole_seconds", "seconds"))
        shown.add_row(row["mapping"], f"{row['lambda']:.2f}", *shares, *times)
    out.print(shown)
    out.print(
        "λ: the one above, fewest layers at 95% agreement. A layer saved is not yet time: every "
        "layer on the way has to be read. Times are medians of a unit",
        style="dim",
    )


def _cheapest(found: "Evaluation") -> dict[str, float]:
    """Return of each mapping the λ of the fewest layers at 95 % agreement."""
    from pyengine.shortcuts.frontier import ADAPTIVE, AGREEMENT

    if found.exits is None:
        raise PyengineError("no stack of this fit leads to an output head, so nothing can stop")
    rows = [
        row
        for row in found.exits.to_pylist()
        if row["rule"] == ADAPTIVE and row["precision@1"] >= AGREEMENT
    ]
    rows.sort(key=lambda row: -row["mean_layer"])
    last = {row["mapping"]: row["lambda"] for row in rows}
    return {
        name: last[name]
        for name in dict.fromkeys(found.exits["mapping"].to_pylist())
        if name in last
    }

"""How fitted shortcuts are shown in the terminal."""

import json
from typing import TYPE_CHECKING, Any

from pyengine.cli.display import columns, err, number, out

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts

LEGEND = (
    "maps: those that begin at this layer; rank: singular values of its states that do not count "
    "as zero; cond: the largest of them by the least; affine: of centred states; rows: trained on"
)
# What the training rows were kept as, by solver.
KEPT_AS = {
    "rows": "the rows themselves (QR)",
    "gram": "float64 sums of their products (Cholesky)",
    "exact": "a triangular factor of them (TSQR)",
}


def show_shortcuts(found: "Shortcuts", as_json: bool) -> None:
    """Show a run as a whole."""
    if as_json:
        print(json.dumps(found.manifest, indent=2))
        return
    out.print(str(found), soft_wrap=True, markup=False)
    print_sources(found)


def summary(found: "Shortcuts") -> dict[str, Any]:
    """Return what `--json` prints."""
    record = found.record
    return {
        "n_rows": record["n_rows"],
        "n_nan": record["n_nan"],
        "solver": record["solver"],
        "sources": sources(found),
    }


def sources(found: "Shortcuts") -> list[dict[str, Any]]:
    """Return one row per source point: its stack, name, maps, and rank and condition by kind."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for fit in found.fits.to_pylist():
        stack, source = fit["stack"], fit["source"]
        row = rows.setdefault((stack, source), {"stack": stack, "source": source, "maps": 0})
        row |= {name: fit[name] for name in ("n_rows", "solver")}
        row["site"] = found.points(stack).names[source]
        row["maps"] += fit["kind"] == "mat"
        condition = fit["condition"]
        row[fit["kind"]] = {
            "rank": fit["rank"],
            "condition": condition if condition == condition else None,
        }
    return list(rows.values())


def print_sources(found: "Shortcuts") -> None:
    """Print a table of the layers that maps begin at; taps inside blocks in one line."""
    if not found.fits.num_rows:
        out.print("the maps were given; how they were fitted is not known")
        return
    names = ("stack", "layer", "maps", "rank", "cond", "affine rank", "cond", "rows", "solver")
    table = columns(*names, left=("stack", "solver"))
    inside = 0
    for row in sources(found):
        if row["source"] > found.n_layers(row["stack"]):
            inside += 1
            continue
        table.add_row(
            row["stack"],
            str(row["source"]),
            str(row["maps"]),
            *(text for kind in ("mat", "affine") for text in _ranked(row[kind])),
            number(row["n_rows"]),
            row["solver"],
        )
    out.print(table)
    if inside:
        out.print(f"and {inside} taps inside blocks, a map from each to the next")
    out.print(LEGEND, style="dim")


def report(found: "Shortcuts") -> None:
    """Say on stderr how each stack was solved, and which sources are singular."""
    for stack in found.stacks:
        solver = found.record["solver"][stack]
        train, validation = found.record["n_rows"][stack]
        err.print(
            f"{stack}: {train:,} training and {validation:,} validation rows of "
            f"{len(found.points(stack).names)} points; solved from {KEPT_AS[solver]}: "
            f"{found.manifest['why'][stack]}"
        )
        if n_nan := sum(found.record["n_nan"][stack]):
            err.print(f"warning: {stack}: {n_nan:,} rows with NaN or infinities were left out")
    d_model = found.manifest["question"]["d_model"]
    for kind in ("mat", "affine"):
        singular = [row for row in sources(found) if row[kind]["rank"] < d_model]
        if singular:
            least = min(row[kind]["rank"] for row in singular)
            err.print(
                f"warning: {len(singular)} source{'s' * (len(singular) > 1)} of {kind} maps "
                f"singular (rank {least} of {d_model} at least); their maps have the least norm"
            )


def _ranked(of: dict[str, Any]) -> tuple[str, str]:
    condition = of["condition"]
    return number(of["rank"]), "–" if condition is None else f"{condition:.3g}"

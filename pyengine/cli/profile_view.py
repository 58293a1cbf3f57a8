"""The table of `pyengine bench --profile`."""

import json
from typing import TYPE_CHECKING

from rich.text import Text

from pyengine.cli.display import columns, human, number, out

if TYPE_CHECKING:
    from pyengine.profiling import Profile

# Rows of less than this share are printed, but not to be looked at.
NEGLIGIBLE = 0.005


def print_profile(profile: "Profile", as_json: bool) -> None:
    """Print a profile on stdout."""
    if as_json:
        print(json.dumps(_figures(profile)))
        return
    table = columns(
        "where the time goes", "seconds", "share", "floor", "× floor", left=("where the time goes",)
    )
    for row in profile.rows:
        cells = (
            row.name,
            f"{row.seconds:.3f}",
            f"{row.share:.1%}",
            "" if row.floor_s is None else f"{row.floor_s:.3f}",
            "" if row.of_floor is None else f"{row.of_floor:.2f}",
        )
        table.add_row(*cells, style="dim" if row.share < NEGLIGIBLE else None)
    floor = _floor(profile)
    table.add_section()
    table.add_row(
        *map(Text, ("all", f"{profile.seconds:.3f}", "100%", f"{floor:.3f}")),
        f"{profile.seconds / floor:.2f}",
        style="bold",
    )
    out.print(table)
    out.print(_notes(profile))


def _floor(profile: "Profile") -> float:
    return sum(row.floor_s or 0.0 for row in profile.rows)


def _notes(profile: "Profile") -> str:
    peak = profile.peak
    notes = [
        f"{profile.n_tokens:,} tokens in {profile.n_units:,} units, "
        f"{human(profile.n_tokens / profile.seconds)} tokens/s; "
        f"{number(profile.n_computed / profile.n_tokens, 2)} computed tokens per real one.",
        f"Floors: {peak.flops / 1e9:,.0f} GFLOP/s, {peak.bytes / 1e9:,.0f} GB/s ({peak.source}), "
        "padding included.",
        "The model is hashed and the result written once a run: a longer corpus (--units 2000) is "
        "closer to a real one.",
    ]
    if (idle := profile.idle) is None:
        notes.append("Idle is not known: torch's profiler saw no kernels.")
    else:
        notes.append(
            f"Idle, not part of the shares above: {idle.seconds:.3f} s of {idle.run_s:.3f} s, "
            f"{idle.share:.1%}; {idle.how}."
        )
    return "\n".join(notes)


def _figures(profile: "Profile") -> dict[str, object]:
    names = ("seconds", "n_units", "n_tokens", "n_computed")
    return {name: getattr(profile, name) for name in names} | {
        "floor_s": _floor(profile),
        "idle": None
        if profile.idle is None
        else profile.idle._asdict() | {"share": profile.idle.share},
        "peak": profile.peak._asdict(),
        "rows": [row._asdict() | {"of_floor": row.of_floor} for row in profile.rows],
    }

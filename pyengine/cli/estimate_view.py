"""What `--dry-run` prints."""

import json
from typing import TYPE_CHECKING

from pyengine.analyses.cached_activations_settings import size_text
from pyengine.cli.display import facts, human, out

if TYPE_CHECKING:
    from pyengine.estimates import Estimate

COSTS = {"tokens": "tokens, padding included", "facts": "prompts"}
STEPS = ((86_400, "d"), (3600, "h"), (60, "min"))


def print_estimate(estimate: "Estimate", as_json: bool) -> None:
    """Print an estimate on stdout, as a table or as JSON."""
    if as_json:
        print(json.dumps(figures(estimate)))
        return
    e, plan = estimate, estimate.plan
    corpus = f"{e.size:,} {e.unit}" + ("" if e.n_units is None else f" in {e.n_units:,} units")
    value, low, high = map(duration, e.seconds)
    rows = {
        "corpus": corpus,
        **e.notes,
        "to compute": f"{e.cost:,} {COSTS[e.unit]} ({e.cost / e.size:.2f} for each)",
        "rate": f"{human(e.rate)} {e.unit}/s",
        "time": f"about {value} ({low} to {high}), of one worker",
    }
    if plan is not None:
        rows |= dict(part.split(": ", 1) for part in plan.line().split("; "))
    if e.peak_device is not None:
        rows["peak, device"] = f"{size_text(e.peak_device)} during the samples"
    rows["peak, process"] = f"{size_text(e.peak_host)} so far, Python and libraries included"
    rows["run directory"] = f"about {size_text(e.disk)}"
    out.print(facts(rows))
    small, large = e.samples
    out.print(
        f"An estimate for {e.function}, of samples of {small:,} and {large:,} {e.unit} from all "
        "over the corpus; nothing was kept."
    )


def duration(seconds: float) -> str:
    """Write 5025 as `1 h 24 min`."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    for number, (size, name) in enumerate(STEPS):
        if whole >= size:
            below, lesser = (1, "s") if number + 1 == len(STEPS) else STEPS[number + 1]
            n, rest = divmod(whole, size)
            return f"{n:,} {name} {rest // below} {lesser}"
    raise AssertionError(seconds)


def figures(estimate: "Estimate") -> dict[str, object]:
    """Return what `--json` prints of an estimate."""
    plan = estimate.plan
    found = {name: value for name, value in vars(estimate).items() if name != "plan"}
    return found | {
        "seconds": estimate.seconds._asdict(),
        "plan": None
        if plan is None
        else {
            place: [held._asdict() for held in getattr(plan, place)]
            for place in ("device", "host", "disk")
        },
    }

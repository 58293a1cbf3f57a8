"""How far scores are from the integral, on models that know their facts, and at what cost.

The reference is a 64-node Gauss-Legendre rule on the same model in float64; the ways compared run
in float32, one prompt at a time. These models are sure of their answers: along the path of the
layer that carries a fact the probability jumps, and no rule gets there with few nodes.
"""

import statistics
from functools import partial
from typing import Any

from benchmarks._attribution_common import (
    ADAPTIVE,
    PACKAGE,
    SMALL,
    Case,
    Question,
    Scale,
    Scored,
    difference,
    known,
    small,
)
from benchmarks._values_common import Cost, Found, Line, cost, duration, verdict
from pyengine.analyses.attribution import Attribution


def measure(scale: Scale) -> Found:
    """Measure errors and costs on every trained model that the package reads."""
    lines: list[Line] = []
    figures: dict[str, Any] = {}
    for family in SMALL:
        more, figures[f"trained {family}"] = compare(family, scale)
        lines += more
    return lines, figures


def compare(family: str, scale: Scale) -> Found:
    """Ask about the facts, each way in turn."""
    case, asked = small(family), known(family, scale.facts)
    double = small(family, double=True)
    exact, finer = (reference(double, asked, n * scale.reference_nodes) for n in (1, 2))
    doubt = max(difference(*pair) for pair in zip(exact.scores, finer.scores, strict=True))
    ways = case.ways(scale.steps)
    for way in ways.values():
        way(asked[0])
    runs: dict[str, list[tuple[Cost, Scored]]] = {name: [] for name in ways}
    for each in asked:
        for name, way in ways.items():
            runs[name].append(cost(partial(way, each)))
    figures: dict[str, Any] = {
        name: _summary(spent, exact, runs[PACKAGE]) for name, spent in runs.items()
    }
    about = f"reference: {scale.reference_nodes} nodes; twice as many move it by {doubt:.0e}"
    lines = [Line(f"{case.name}, {len(asked)} facts", beside=about)]
    lines += [_line(name, found, figures[PACKAGE]) for name, found in figures.items()]
    return lines, figures | {"facts": len(asked), "reference_moves": doubt}


def reference(case: Case, asked: list[Question], nodes: int) -> Attribution:
    """Integrate as well as can be."""
    prompts, targets = zip(*asked, strict=True)
    return case.ours().attribute(prompts, targets, "gauss_legendre", nodes, value=case.value)


def _summary(
    spent: list[tuple[Cost, Scored]], exact: Attribution, package: list[tuple[Cost, Scored]]
) -> dict[str, float]:
    errors = [
        difference(found.scores, scores)
        for (_, found), scores in zip(spent, exact.scores, strict=True)
    ]
    cpu = sum(one.cpu_s for one, _ in spent)
    return {
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "nodes": statistics.mean(found.nodes for _, found in spent),
        "cpu_s_per_prompt": cpu / len(spent),
        "wall_s_per_prompt": sum(one.wall_s for one, _ in spent) / len(spent),
        "cpu_ratio": sum(one.cpu_s for one, _ in package) / cpu,
    }


def _line(name: str, found: dict[str, float], package: dict[str, float]) -> Line:
    errors = f"error {found['median_error']:.1e}, worst {found['worst_error']:.1e}"
    cpu = duration(found["cpu_s_per_prompt"])
    beside = f"{found['nodes']:.1f} nodes a layer, CPU {cpu} a prompt"
    ratio = f"{found['cpu_ratio']:.1f} x"
    if not name.startswith(ADAPTIVE):
        return Line(f"  {name}", errors, beside, ratio)
    names = ("median_error", "worst_error")
    better = all(found[which] < package[which] for which in names)
    return Line(f"  {name}", errors, beside, ratio, "error < package's", verdict(better))

"""One question, the package's way and ours: the same rule, and as many nodes as are needed.

Random weights answer almost linearly, so that `adaptive` stops at few nodes: its speed on models
that know something is measured by the part `accuracy`.
"""

import statistics
from functools import partial
from typing import Any

from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from benchmarks._attribution_common import (
    ADAPTIVE,
    FAMILIES,
    OWN_NEURONS,
    PACKAGE,
    SAME_RULE,
    Case,
    Question,
    Scale,
    Scored,
    Way,
    base,
    difference,
    question,
    scored,
)
from benchmarks._values_common import Cost, Found, Line, cost, duration, verdict

# In CPU time of the package.
TARGETS = {SAME_RULE: {"bert": 2.5, "gpt2": 12.0}, ADAPTIVE: {"bert": 6.0, "gpt2": 30.0}}
TARGETS[OWN_NEURONS] = TARGETS[ADAPTIVE]
SAME = 1e-5  # of the largest score
# What is left of the package's FLOP without repetition: 12 layers, 20 nodes, 12 tokens.
FLOOR_GFLOP = {"bert": 401, "gpt2": 79}


def measure(scale: Scale) -> Found:
    """Time every way on prompts of every length; count FLOP at the first."""
    lines: list[Line] = []
    figures: dict[str, Any] = {}
    for family in FAMILIES:
        case = base(family, scale.tiny)
        for n_tokens, package_rounds in zip(scale.lengths, scale.package_rounds, strict=True):
            more, found = compare(case, n_tokens, package_rounds, scale)
            lines += more
            figures[f"{case.name}, {n_tokens} tokens"] = found
        more, figures[f"{case.name}, FLOP"] = count(case, scale)
        lines += more
    return lines, figures


def timed(case: Case, steps: int) -> dict[str, Way]:
    """Return the ways to time; `adaptive` where the package looks, and where we do by default."""
    ways = case.ways(steps)
    found = {name: ways[name] for name in (PACKAGE, SAME_RULE, ADAPTIVE)}
    if case.value != "post":
        found[OWN_NEURONS] = partial(scored, case.ours(), "post")
    return found


def compare(case: Case, n_tokens: int, package_rounds: int, scale: Scale) -> Found:
    """Time the ways, interleaved; take medians."""
    asked, ways = question(case, n_tokens), timed(case, scale.steps)
    for way in timed(case, 1).values():  # what is done once only
        way(question(case, 12))
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    found: dict[str, Scored] = {}
    for number in range(max(package_rounds, scale.rounds)):
        for name in ways:
            if number < (package_rounds if name == PACKAGE else scale.rounds):
                spent, found[name] = cost(partial(ways[name], asked))
                costs[name].append(spent)
    return _report(f"{case.name}, {n_tokens} tokens", case.family, costs, found)


def _report(
    what: str, family: str, costs: dict[str, list[Cost]], found: dict[str, Scored]
) -> Found:
    medians = {
        name: Cost(*(statistics.median(column) for column in zip(*spent, strict=True)))
        for name, spent in costs.items()
    }
    lines, figures = [Line(what)], {}
    for name, spent in medians.items():
        faster = Cost(*(theirs / own for theirs, own in zip(medians[PACKAGE], spent, strict=True)))
        off = difference(found[name].scores, found[PACKAGE].scores)
        took = f"{duration(spent.wall_s)}, CPU {duration(spent.cpu_s)}"
        beside = f"{found[name].nodes:.1f} nodes a layer"
        judged = ["", "", ""]
        if name in TARGETS:
            goal = TARGETS[name][family]
            judged = [f"{faster.cpu_s:.1f} x", f"≥ {goal:g} x", verdict(faster.cpu_s >= goal)]
        lines.append(Line(f"  {name}", took, beside, *judged))
        figures[name] = spent._asdict() | {
            "rounds": len(costs[name]),
            "nodes": found[name].nodes,
            "difference": off,
            "wall_ratio": faster.wall_s,
            "cpu_ratio": faster.cpu_s,
        }
    off = figures[SAME_RULE]["difference"]
    same = Line("  difference", f"{off:.1e}", "same rule", "", f"≤ {SAME:g}", verdict(off <= SAME))
    return [*lines, same], figures


def count(case: Case, scale: Scale) -> Found:
    """Count the FLOP of one question, beside what is left without repetition."""
    asked = question(case, scale.lengths[0])
    counted = {name: flop(way, asked) for name, way in timed(case, scale.steps).items()}
    floor = FLOOR_GFLOP[case.family] * 1e9
    lines = [Line(f"{case.name}, {scale.lengths[0]} tokens, FLOP", beside=f"{floor / 1e9:.0f} G")]
    for name, number in counted.items():
        ratio = f"{counted[PACKAGE] / number:.1f} x"
        lines.append(
            Line(f"  {name}", f"{number / 1e9:.4g} G", f"{number / floor:.2f} x the floor", ratio)
        )
    return lines, {"floor": floor, **counted}


def flop(way: Way, asked: Question) -> int:
    """Count the FLOP of products and attention."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with counter:
        way(asked)
    return counter.get_total_flops()


class _NoModules(ModuleTracker):
    """Assigns no FLOP to modules: torch's hooks for that cannot be where a gradient is taken."""

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *_: object) -> None:
        pass

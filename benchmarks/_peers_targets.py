"""A family's report: what every case costs, and the targets: met, missed, or undecided."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks._peers_common import NAMES, Scale, Setting
from benchmarks._peers_huggingface import fraction_run
from benchmarks._peers_rounds import (
    BODY,
    FUSED,
    MODEL,
    NNSIGHT,
    ONE_LAYER,
    TRANSFORMER_LENS,
    figures,
    interleaved,
    ratios,
    with_peers,
    wrong,
)
from benchmarks._values_common import Cost, Found, Line, duration, verdict


class Target(NamedTuple):
    """A limit to the CPU time of a case.

    Attributes:
        case, peer: whose times are compared.
        limit: the most that the case may take of the peer's time; None: the fraction of the model
            that was run, in blocks begun. With `faster`: how many times as fast it must be.
        faster: see `limit`.
        families: where it holds.
    """

    case: str
    peer: str
    limit: float | None
    faster: bool = False
    families: tuple[str, ...] = tuple(NAMES)


TARGETS = (
    Target(MODEL, BODY, 1.05),
    Target(FUSED, BODY, 0.92, families=("gpt2",)),
    Target(MODEL, TRANSFORMER_LENS, 1.7, faster=True),
    Target(MODEL, NNSIGHT, 1.2, faster=True),
    Target(ONE_LAYER, BODY, None),
)


def measure(family: str, scale: Scale, chosen: Iterable[str]) -> Found:
    """Run cases on a family's model, and what they are compared with."""
    setting = Setting.of(family, scale)
    costs, answers = interleaved(setting, with_peers(chosen))
    cases = figures(setting, costs, answers)
    fraction = fraction_run(setting)
    name = f"tiny {family}" if scale.tiny else NAMES[family]
    size = f"{scale.sequences} x {scale.length} tokens, batches of {scale.batch}, k = {scale.k}"
    lines = [Line(f"{name}, {size}"), *(_line(*each) for each in cases.items())]
    targets = {}
    for target in TARGETS:
        if family in target.families and {target.case, target.peer} <= costs.keys():
            line, targets[f"{target.case} / {target.peer}"] = judge(
                setting, target, costs, fraction
            )
            lines.append(line)
    return lines, {"cases": cases, "targets": targets, "fraction_run": fraction}


def _line(name: str, case: dict[str, Any]) -> Line:
    took = f"CPU {duration(case['cpu_s'])}, clock {duration(case['wall_s'])}"
    beside = f"values differ by {case['difference']:.1e}" if "difference" in case else ""
    if "same_ids" in case:
        beside += f", {case['same_ids']:.4%} of the ids equal"
    least, most = case["of_body_spread"]
    ratio = f"{case['of_body']:.3f} x ({least:.3f} to {most:.3f})"
    if "stored_bytes" in case:
        beside += f", {case['stored_bytes'] / 2**20:,.0f} MiB stored"
    return Line(f"  {name}", took, beside, ratio, "", "WRONG" if wrong(case) else "")


def judge(
    setting: Setting, target: Target, costs: dict[str, list[Cost]], fraction: float
) -> tuple[Line, dict[str, Any]]:
    """Hold the rounds against the limit."""
    pair = [costs[target.case], costs[target.peer]]
    rounds = ratios(setting, *(reversed(pair) if target.faster else pair))
    limit = fraction if target.limit is None else target.limit
    ratio, judged = statistics.median(rounds), standing(rounds, limit, target.faster)
    what, sign = ("times as fast as", "≥") if target.faster else ("of the time of", "≤")
    name = f"  {target.case}: {what} {target.peer}"
    beside = "limit: the FLOP of the blocks that were begun" if target.limit is None else ""
    spread = [min(rounds), max(rounds)]
    measured = f"{ratio:.3f} x ({spread[0]:.3f} to {spread[1]:.3f})"
    line = Line(name, "", beside, measured, f"{sign} {limit:.3g} x", judged)
    return line, {"ratio": ratio, "spread": spread, "limit": limit, "verdict": judged}


def standing(rounds: Sequence[float], limit: float, faster: bool = False) -> str:
    """Say `met` or `missed` where all rounds are on one side of the limit, else `undecided`."""
    if min(rounds) < limit < max(rounds):
        return "undecided"
    middle = statistics.median(rounds)
    return verdict(middle >= limit if faster else middle <= limit)

"""How time grows with the corpus, with k, with the model's width and with what is asked at once.

    python -m benchmarks growth --save cpu-growth --plot docs/growth.svg     # some 10 minutes
    python -m benchmarks growth --only k,sites --rounds 1
    pytest benchmarks/growth.py                       # pytest-benchmark, the least of every axis

CPU time of one thread, medians of rounds in which all sizes of an axis take turns; random GPT-2s in
fp32, narrow enough for a million tokens; units of the lengths of WikiText's sentences, as token
ids. The slope of log time in log size is that of least squares, and beside it the steepest between
two neighbours. Linear or better: a slope of at most 1, within 5 %; with the width, at most 2, since
the forward pass, which is drawn beside, has that many more weights. Both are judged; a step is
undecided where the limit lies between the least and the greatest of its rounds.
"""

import argparse
import gc
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks._growth_axes import AXES, FORWARD, Axis, Point, Scale
from benchmarks._growth_plot import plot
from benchmarks._machine import write_result
from benchmarks._peers_targets import standing
from benchmarks._values_common import Found, Line, cost, duration, verdict
from benchmarks.values import show

TOLERANCE = 0.05  # of a slope
FULL = Scale()
TOY = Scale(
    corpus=(200, 400, 800),
    k=(1, 2, 4),
    widths=(8, 16, 32),
    sites=(1, 2, 3),
    tokens=(300, 200, 200),
    models=((16, 2), (16, 2), (8, 3)),
    rounds=1,
)


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(AXES), help=f"some of {','.join(AXES)}")
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    parser.add_argument("--plot", type=Path, help="a picture, .svg or .png")
    options = parser.parse_args(argv)
    axes = options.only.split(",")
    if unknown := set(axes) - set(AXES):
        parser.error(f"unknown axes: {', '.join(sorted(unknown))}; known: {', '.join(AXES)}")
    torch.set_num_threads(1)
    scale = replace(FULL, rounds=options.rounds)
    found = {name: measure(name, AXES[name], scale) for name in axes}
    show(found)
    figures = {name: result for name, (_, result) in found.items()}
    if options.save:
        command = " ".join(["python -m benchmarks growth", *argv])
        print(f"wrote {write_result(options.save, figures, command)}")
    if options.plot:
        plot(figures, options.plot)


def measure(name: str, axis: Axis, scale: Scale) -> Found:
    """Time every size of an axis in turn, `scale.rounds` times, after one that does not count."""
    points = list(axis.points(scale))
    spent: dict[str, list[list[float]]] = {line: [[] for _ in points] for line in points[0].runs}
    for number in range(scale.rounds + 1):
        for at, point in enumerate(points):
            for line, run in point.runs.items():
                gc.collect()
                seconds = cost(run)[0].cpu_s
                if number:
                    spent[line][at].append(seconds)
            print(f"{name} {point.x:,}, round {number}", file=sys.stderr, flush=True)
    sizes = [point.x for point in points]
    figures: dict[str, Any] = {"label": axis.label, "x": sizes, "limit": axis.limit}
    figures |= {"why": axis.why, "lines": {}}
    lines = [Line(f"{axis.label}: {', '.join(f'{x:,}' for x in sizes)}", target=axis.why)]
    for line, rounds in spent.items():
        times = [statistics.median(each) for each in rounds]
        grown = growth(sizes, times)
        figures["lines"][line] = {"cpu_s": times, "cpu_s_rounds": rounds, **grown}
        took = f"{duration(times[0])} to {duration(times[-1])}"
        slope = f"slope {grown['slope']:.2f}"
        beside = f"steepest {grown['steepest']:.2f}"
        if line == FORWARD:
            lines.append(Line(f"  {line}", took, beside, slope))
            continue
        met = verdict(grown["slope"] <= axis.limit + TOLERANCE)
        step = steepest_verdict(sizes, rounds, axis.limit)
        figures["lines"][line] |= {"verdict": met, "steepest_verdict": step}
        lines.append(Line(f"  {line}", took, f"{beside}: {step}", slope, f"≤ {axis.limit}", met))
    return lines, figures


def growth(sizes: Sequence[float], times: Sequence[float]) -> dict[str, float]:
    """Return the slope of log time in log size by least squares, and the steepest step."""
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in times]
    slope = statistics.linear_regression(x, y).slope
    return {"slope": slope, "steepest": max(_steps(sizes, times))}


def steepest_verdict(
    sizes: Sequence[float], rounds: Sequence[Sequence[float]], limit: float
) -> str:
    """Judge the steepest step between medians by what it is in every round.

    Args:
        sizes: of an axis.
        rounds: seconds by size and round.
        limit: of the slope, without the tolerance.
    """
    steps = _steps(sizes, [statistics.median(each) for each in rounds])
    at = steps.index(max(steps))
    by_round = [_steps(sizes, times)[at] for times in zip(*rounds, strict=True)]
    return standing(by_round, limit + TOLERANCE)


def _steps(sizes: Sequence[float], times: Sequence[float]) -> list[float]:
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in times]
    return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(zip(x, y, strict=True))]


@pytest.mark.parametrize("axis", AXES)
def test_least(benchmark: Any, axis: str) -> None:
    point: Point = next(AXES[axis].points(TOY))
    benchmark(lambda: [run() for run in point.runs.values()])

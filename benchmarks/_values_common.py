"""What the parts of the value benchmark share: its sizes, its lines, its clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pyengine.embedded import EXCERPT


@dataclass(frozen=True)
class Scale:
    """How much is measured; the defaults are the benchmark, GPT-2 small.

    Attributes:
        vocab, width: of the output embedding that values are projected onto.
        rows: values to project (GPT-2 small has 36,864).
        targets: target tokens per value, measured one after the other.
        blocks: rows per block of logits: of the textbook way, and of the leaner one.
        rounds: repetitions of a projection.
        corpus: a WikiText file.
        units: sentences of the layer predictions.
        original_units: sentences that the original's procedure is timed on.
        dims: dimensions that its value mode is timed on.
        trigger_units, value_units, all_value_units: sentences that ours is timed on for the
            running-time table: trigger search, value predictions, those with `all_values`.
        tiny: a model of two narrow layers, for the tests of this code.
    """

    vocab: int = 50_257
    width: int = 768
    rows: int = 8_192
    targets: tuple[int, ...] = (1, 50)
    blocks: tuple[int, int] = (2_048, 256)
    rounds: int = 3
    corpus: Path = EXCERPT
    units: int = 1_000
    original_units: int = 3
    dims: int = 32
    trigger_units: int = 300
    value_units: int = 200
    all_value_units: int = 8
    tiny: bool = False


class Line(NamedTuple):
    """A line of the table; a verdict is `met` or `missed`, or nothing where there is no target."""

    what: str
    measured: str = ""
    beside: str = ""
    ratio: str = ""
    target: str = ""
    verdict: str = ""


# What a part returns: lines for people, figures for the results file.
Found = tuple[list[Line], dict[str, Any]]


class Cost(NamedTuple):
    """Seconds on the clock, and of CPU time of all threads."""

    wall_s: float
    cpu_s: float


def cost(run: Callable[[], Any]) -> tuple[Cost, Any]:
    """Run once; return what it cost, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu), result


def verdict(met: bool) -> str:
    """Judge a figure that has a target."""
    return "met" if met else "missed"


def duration(seconds: float) -> str:
    """Say seconds as people do: `85 ms`, `4.1 s`, `12 min`, `9.8 h`."""
    for limit, unit, name, digits in ((1, 1e-3, "ms", 0), (100, 1, "s", 1), (3600, 60, "min", 1)):
        if seconds < limit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 3600:,.1f} h"

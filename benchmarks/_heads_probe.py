"""Probes of all heads as one optimisation, beside SentEval's procedure, which trains them in turn.

The procedure is timed on some heads, spread over all, with all their regularisers.
"""

from typing import Any

import numpy as np
import torch

from benchmarks._heads_common import Scale
from benchmarks._heads_procedure import Result, split
from benchmarks._values_common import Cost, Found, Line, cost, duration, verdict
from pyengine.heads.probe.protocols import Probed, probe_classes
from pyengine.heads.task import SPLIT
from pyengine.peaks import measured_peak

TARGET = 8


def measure(scale: Scale) -> Found:
    """Time all probes, and the procedure on some heads; they must agree."""
    x, parts = scale.drawn()
    few = {name: (rows[:50], classes[:50]) for name, (rows, classes) in parts.items()}
    probe_classes(x[:, :1], few, scale.n_classes, SPLIT)  # libraries are not what is measured
    heads = np.linspace(0, scale.heads - 1, scale.peer_heads).astype(int)
    peer, results = cost(lambda: [procedure(scale, x, parts, head) for head in heads])
    whole = Cost(*(each * scale.heads / len(heads) for each in peer))
    ours, found = cost(lambda: probe_classes(x, parts, scale.n_classes, SPLIT, scale.settings))
    agreement = agreeing(found, heads, results)
    ratio = whole.cpu_s / ours.cpu_s
    n_fits = scale.heads * len(scale.settings.regularisers)
    flops = probe_flops(scale, found)
    floor = flops / measured_peak(torch.device("cpu"), "float32").flops
    lines = [
        Line(
            f"{n_fits} fits, {scale.n_train:,} x {scale.width}: SentEval's procedure",
            duration(whole.cpu_s),
            f"extrapolated from {len(heads)} heads",
        ),
        Line(
            "  ours, all at once",
            duration(ours.cpu_s),
            f"floor {duration(floor)}",
            f"{ratio:.1f} x",
            f">= {TARGET} x",
            verdict(ratio >= TARGET),
        ),
        Line(f"  the same choice, dev and test: {agreement} of {len(heads)} heads"),
    ]
    figures: dict[str, Any] = {"fits": n_fits, "heads_timed": len(heads), "agreeing": agreement}
    figures |= {"procedure": whole._asdict(), "pyengine": ours._asdict(), "ratio": ratio}
    figures |= {"flops": flops, "floor_s": floor, "ratio_wall": whole.wall_s / ours.wall_s}
    return lines, figures


def procedure(scale: Scale, x: np.ndarray, parts: dict[str, Any], head: int) -> Result:
    """Probe one head as SentEval does."""
    own = {
        name: (np.ascontiguousarray(x[rows[:, 0], head]), classes)
        for name, (rows, classes) in parts.items()
    }
    return split(own["train"], own["dev"], own["test"], scale.n_classes, scale.settings)


def agreeing(found: Probed, heads: np.ndarray, results: list[Result]) -> int:
    """Count the heads for which both came to the same.

    Raises:
        RuntimeError: where they differ by more than one that a rounded sum can decide.
    """
    ours = [Result(*(float(of[head]) for of in found[:3])) for head in heads]
    for mine, theirs in zip(ours, results, strict=True):
        if abs(mine.dev - theirs.dev) > 1 or abs(mine.test - theirs.test) > 1:
            raise RuntimeError(f"the probes differ: {mine}, SentEval's {theirs}")
    return sum(mine == theirs for mine, theirs in zip(ours, results, strict=True))


def probe_flops(scale: Scale, found: Probed) -> float:
    """Count the least: logits and their gradients of every epoch of the probes that were chosen.

    The other regularisers are taken to have been trained as long.
    """
    n_fits = len(scale.settings.regularisers)
    one = 2 * scale.width * scale.n_classes  # of an example's logits
    return float(found.epochs.sum()) * n_fits * scale.n_train * 2 * one

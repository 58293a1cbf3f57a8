"""Peak memory of probing above the vectors it reads, beside the formula.

Linux only: a process of its own, which resets and reads its high-water mark.
"""

from dataclasses import asdict
from typing import Any

import torch

from benchmarks._heads_common import Scale
from benchmarks._parts import in_own_process, peak_of
from benchmarks._render_common import mib
from benchmarks._values_common import Found, Line, verdict
from pyengine.heads.probe.chunks import heads_together
from pyengine.heads.probe.protocols import probe_classes
from pyengine.heads.task import SPLIT

LIMIT = 1.5
# Beside the weights: the best ones so far, the optimiser's squares, a gradient, two of its sums.
COPIES = 6


def measure(scale: Scale) -> Found:
    """Measure the probes of all heads."""
    formula, peak = probe_bytes(scale), peak_memory(scale)
    vectors = 4 * n_examples(scale) * scale.heads * scale.width
    times = peak / formula
    line = Line(
        f"peak memory of the probes, above {mib(vectors)} of vectors",
        mib(peak),
        f"formula {mib(formula)}",
        f"{times:.2f} x",
        f"<= {LIMIT:g} x",
        verdict(times <= LIMIT),
    )
    figures: dict[str, Any] = {"peak_bytes": peak, "formula_bytes": formula, "ratio": times}
    return [line], figures | {"vector_bytes": vectors}


def n_examples(scale: Scale) -> int:
    """Return how many vectors a head has."""
    return scale.n_train + scale.n_dev + scale.n_test


def probe_bytes(scale: Scale) -> int:
    """Return the formula: features of the heads together, a step's products, weights."""
    n, width, n_classes, settings = n_examples(scale), scale.width, scale.n_classes, scale.settings
    together = heads_together(torch.device("cpu"), n, width, n_classes, settings)
    heads, probes = min(together, scale.heads), len(settings.regularisers)
    step = settings.batch_size * (width + 3 * probes * n_classes)
    weights = COPIES * probes * n_classes * (width + 1)
    return 4 * heads * (n * width + step + weights)


def peak_memory(scale: Scale) -> int:
    """Return the peak bytes of probing in a process of its own, above the loaded vectors."""
    return in_own_process(__name__, "peak_here", asdict(scale))


def peak_here(settings: dict[str, Any]) -> int:
    """Return that of this process."""
    scale = Scale(**settings)
    x, parts = scale.drawn()
    few = {name: (rows[:50], classes[:50]) for name, (rows, classes) in parts.items()}
    probe_classes(x[:, :1], few, scale.n_classes, SPLIT)  # libraries are not what is measured
    return peak_of(lambda: probe_classes(x, parts, scale.n_classes, SPLIT, scale.settings))

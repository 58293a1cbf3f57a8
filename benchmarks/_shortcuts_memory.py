"""Peak memory of a fit above a bare pass over the same sentences, beside the size of its states.

Linux only: every way runs in a process of its own, which resets and reads its high-water mark.
"""

from dataclasses import asdict
from typing import Any

from benchmarks._parts import in_own_process, peak_of
from benchmarks._render_common import mib
from benchmarks._shortcuts_common import Scale, headless, shape
from benchmarks._shortcuts_evaluate import sample_of
from benchmarks._values_common import Found, Line, verdict
from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.shortcuts.fit import fit_shortcuts

LIMIT = 2.0  # of the states: least squares in float64 needs room beside them
BARE = "bare pass"
SOLVERS = ("rows", "gram")


def measure(scale: Scale) -> Found:
    """Measure a bare pass, and a fit by every solver."""
    bare = peak_memory(BARE, scale)
    lines = [Line("peak memory above the model: a bare pass", mib(bare))]
    figures: dict[str, Any] = {BARE: bare}
    n_layers, d = shape(scale.model())
    for solver in SOLVERS:
        states, peak = state_bytes(scale, solver, n_layers, d), peak_memory(solver, scale)
        times = (peak - bare) / states
        lines.append(
            Line(
                f"  a fit to the last layer by {solver}",
                mib(peak),
                f"states {mib(states)}",
                f"{times:.2f} x above the pass",
                f"<= {LIMIT:g} x",
                verdict(times <= LIMIT),
            )
        )
        figures[solver] = {"peak_bytes": peak, "state_bytes": states, "ratio": times}
    return lines, figures


def state_bytes(scale: Scale, solver: str, n_layers: int, d: int) -> int:
    """Return the formula: training rows, or 2 L blocks of products; validation rows beside."""
    kept = RowBuffer.bytes(scale.n_validation, n_layers + 1, d)
    if solver == "gram":
        return kept + Gram.bytes(d, [(layer, n_layers) for layer in range(n_layers)])
    return kept + RowBuffer.bytes(scale.n_train, n_layers + 1, d)


def peak_memory(way: str, scale: Scale) -> int:
    """Return the peak bytes of one way in a process of its own, above the loaded model."""
    return in_own_process(__name__, "peak_here", way, asdict(scale))


def peak_here(way: str, settings: dict[str, Any]) -> int:
    """Return that of this process."""
    scale = Scale(**settings)
    model, store = scale.model(), scale.store(scale.n_train + scale.n_validation)
    _ = model.fingerprint
    warm = scale.store(8)
    fit_shortcuts(model, warm, n_train=6, n_validation=2)  # libraries are not what is measured
    if way == BARE:
        return peak_of(lambda: headless(model, sample_of(scale, store).store))
    return peak_of(lambda: fit_shortcuts(model, store, solver=way, **scale.drawn()))

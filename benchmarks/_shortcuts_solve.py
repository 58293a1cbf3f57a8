"""All maps between the layers, beside LAPACK's SVD least squares for one pair at a time.

scikit-learn's LinearRegression(fit_intercept=False), which the original calls on float32 arrays,
is LAPACK's gelsd; torch calls the same routine, without scikit-learn's checks and copies.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._shortcuts_common import Scale, ratio, shape
from benchmarks._values_common import Cost, Found, Line, cost, duration, verdict
from pyengine.peaks import measured_peak
from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.solve import sources

TARGET, AGREEMENT = 20, 1e-6
RCOND = 1e-6  # scikit-learn 1.9's `tol`

Pair = tuple[int, int]


def measure(scale: Scale) -> Found:
    """Time our solvers on all pairs, and LAPACK's on a few."""
    n_layers, _ = shape(scale.model())
    states = random_states(scale)
    n, _, d = states.shape
    pairs = [(i, j) for i in range(n_layers) for j in range(i + 1, n_layers + 1)]
    step = len(pairs) / scale.peer_pairs
    chosen = [pairs[int((k + 0.5) * step)] for k in range(scale.peer_pairs)]
    gelsd(states[: 2 * d], chosen[0])  # libraries are not what is measured
    single, rough = _peer(states, chosen, len(pairs))
    double, exact = _peer(states.double(), chosen, len(pairs))
    error = _worst(rough, exact)
    what = f"{n:,} rows x {d}, {len(pairs)} maps: LAPACK gelsd"
    timed = f"extrapolated from {len(chosen)} pairs"
    lines = [
        Line(f"{what}, float32", f"{duration(single.wall_s)}, error {error:.0e}", timed),
        Line(f"{what}, float64", duration(double.wall_s), timed),
    ]
    figures: dict[str, Any] = {"n_rows": n, "width": d, "maps": len(pairs)}
    figures["gelsd"] = {"pairs_timed": len(chosen), "error": error} | single._asdict()
    figures["gelsd float64"] = double._asdict()
    rate = measured_peak(torch.device("cpu"), "float64").flops
    for name, (solve, flops) in SOLVERS.items():
        seconds, maps = cost(partial(solve, states, pairs))
        error = _worst(maps, exact)
        if not error <= AGREEMENT:
            raise RuntimeError(f"{name}: the maps differ by {error:.1e} from float64's")
        n_flops = flops(n, d, n_layers)
        found = {"ratio": ratio(single, seconds), "ratio_float64": ratio(double, seconds)}
        found |= {"error": error, "flops": n_flops, "floor_s": n_flops / rate}
        figures[name] = found | seconds._asdict()
        lines.append(
            Line(
                f"  ours, {name}, float64",
                f"{duration(seconds.wall_s)}, error {error:.0e}",
                f"floor {duration(found['floor_s'])}",
                f"{found['ratio']:.1f} x, of float64 {found['ratio_float64']:.1f} x",
                f">= {TARGET} x",
                verdict(found["ratio"] >= TARGET),
            )
        )
    return lines, figures


def _peer(states: Tensor, chosen: list[Pair], n_pairs: int) -> tuple[Cost, dict[Pair, Tensor]]:
    """Solve some pairs one by one; return what all would cost, and the maps of those."""
    found = {pair: cost(partial(gelsd, states, pair)) for pair in chosen}
    times = [np.mean(each) * n_pairs for each in zip(*(c for c, _ in found.values()), strict=True)]
    return Cost(*map(float, times)), {pair: matrix for pair, (_, matrix) in found.items()}


def random_states(scale: Scale) -> Tensor:
    """Return rows of a random model, [n, L + 1, d]: those that a fit keeps for validation."""
    sizes = scale.drawn() | {"n_train": 1, "n_validation": scale.n_train}
    found = fit_shortcuts(scale.model(), scale.store(scale.n_train + 1), **sizes)
    return found.validation().states


def gelsd(states: Tensor, pair: Pair) -> Tensor:
    """Solve one pair as scikit-learn does, A [d, d]."""
    source, target = (states[:, point].contiguous() for point in pair)
    return torch.linalg.lstsq(source, target, rcond=RCOND, driver="gelsd").solution.t()


def by_rows(states: Tensor, pairs: list[Pair]) -> dict[Pair, Tensor]:
    """Solve all pairs by a QR of each source."""
    n, n_points, d = states.shape
    state = RowBuffer(n_points, d)
    places = torch.arange(n)
    state.add(states.flatten(1), places, torch.zeros_like(places))
    return _solved(state, pairs)


def by_gram(states: Tensor, pairs: list[Pair]) -> dict[Pair, Tensor]:
    """Solve all pairs by products and Cholesky; summing the products included."""
    state = Gram(states.shape[1], states.shape[2], pairs)
    state.add(states.flatten(1))
    return _solved(state, pairs)


def rows_flops(n: int, d: int, n_layers: int) -> float:
    """Count what QR needs: a factorisation a source; a product with Q, a triangle a target."""
    factorise, apply, substitute = 2 * n * d**2 - 2 * d**3 / 3, 2 * n * d**2, d**3
    n_pairs = n_layers * (n_layers + 1) // 2
    return n_layers * factorise + n_pairs * (apply + substitute)


def gram_flops(n: int, d: int, n_layers: int) -> float:
    """Count what products need: symmetric ones by half; a Cholesky a source, two triangles."""
    n_pairs = n_layers * (n_layers + 1) // 2
    return n_layers * (n * d**2 + d**3 / 3) + n_pairs * (2 * n * d**2 + 2 * d**3)


def _solved(state: Any, pairs: list[Pair]) -> dict[Pair, Tensor]:
    found = {}
    for source in sources(state, pairs, kinds=("mat",)):
        for target in source.targets:
            found[source.source, target] = source.solve(target).weight
    return found


def _worst(maps: dict[Pair, Tensor], exact: dict[Pair, Tensor]) -> float:
    errors = [
        (maps[pair].double() - expected).norm() / expected.norm()
        for pair, expected in exact.items()
    ]
    return float(max(errors))


SOLVERS: dict[str, tuple[Any, Any]] = {
    "rows": (by_rows, rows_flops),
    "gram": (by_gram, gram_flops),
}

"""Rows for least squares, the reducers that take them in, and NumPy's answers in float64."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.reducers.tsqr import TSQR
from pyengine.shortcuts.linear_map import AFFINE, MAT
from pyengine.shortcuts.solve import RCOND, Source, sources

SOLVERS = ("rows", "gram", "exact")
BLOCK_ROWS = 7  # so that small cases have several blocks


def reducer(name: str, n_points: int, d: int, pairs: Sequence[tuple[int, int]], **more: Any) -> Any:
    """Make one of the three, for these pairs."""
    if name == "rows":
        more.pop("block_rows", None)
        return RowBuffer(n_points, d, **({"dtype": torch.float64} | more))
    more = {"block_rows": BLOCK_ROWS} | more
    if name == "gram":
        return Gram(n_points, d, pairs, **more)
    return TSQR(n_points, d, sorted({tuple(sorted(pair)) for pair in pairs}), **more)


def fill(state: Any, rows: Tensor, batches: Iterable[int] = ()) -> Any:
    """Add rows, cut into batches of these sizes; what is left comes last."""
    begun = 0
    for size in [*batches, len(rows)]:
        batch = rows[begun : begun + size]
        units = torch.arange(begun, begun + len(batch))
        state.add(batch, units, units % 3)
        begun += len(batch)
    return state


def filled(
    name: str, points: Sequence[Tensor], pairs: Sequence[tuple[int, int]], **more: Any
) -> Any:
    """Make one of the three of points [n, d] each."""
    state = reducer(name, len(points), points[0].shape[1], pairs, **more)
    return fill(state, torch.cat([*points], dim=1))


def solved(state: Any, source: int, target: int, kind: str, **more: Any) -> tuple[Source, Any]:
    """Return the source and the map of one pair."""
    (found,) = sources(state, [(source, target)], kinds=[kind], **more)
    return found, found.solve(target)


def numpys(x: Tensor, y: Tensor, kind: str, rcond: float = RCOND) -> tuple[np.ndarray, np.ndarray]:
    """Return A and b of NumPy's pseudo-inverse, in float64; b is 0 without an intercept."""
    wide_x, wide_y = x.double().numpy(), y.double().numpy()
    if kind == MAT:
        weight = (np.linalg.pinv(wide_x, rcond=rcond) @ wide_y).T
        return weight, np.zeros(len(weight))
    mean_x, mean_y = wide_x.mean(0), wide_y.mean(0)
    weight = (np.linalg.pinv(wide_x - mean_x, rcond=rcond) @ (wide_y - mean_y)).T
    return weight, mean_y - weight @ mean_x


def centred(x: Tensor, kind: str) -> Tensor:
    """Return what is factorised for a kind, float64."""
    return x.double() - x.double().mean(0) if kind == AFFINE else x.double()


def relative(found: Any, wanted: Any) -> float:
    """Return the relative Frobenius error."""
    found, wanted = (np.asarray(side, dtype=np.float64) for side in (found, wanted))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Draw from a normal distribution, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hard_rows(n: int = 2000, d: int = 64, *, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Return states as transformers have them, float32, and targets.

    Directions of unequal size (10**-spread to 1), three coordinates whose mean is far beyond their
    deviation, and 5 % of rows that are 10 to 100 times as long.
    """
    made = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    turn = torch.linalg.qr(normal(d, d)).Q
    x = normal(n, d) * torch.logspace(0, -spread, d, dtype=torch.float64) @ turn
    x[:, [3, 17, 40]] += torch.tensor([30.0, -80.0, 150.0], dtype=torch.float64)
    sinks = torch.arange(0, n, 20)
    sizes = torch.logspace(1, 2, len(sinks), dtype=torch.float64)[:, None]
    x[sinks] += normal(1, d) * sizes * (1 + 0.01 * normal(len(sinks), 1))
    y = x @ (torch.eye(d, dtype=torch.float64) + 0.3 * normal(d, d) / d**0.5) + 0.1 * normal(n, d)
    return x.float(), y.float()


def layer_normed(n: int, d: int, seed: int = 0) -> Tensor:
    """Return rows with neither mean nor scale of their own: float32, on a hyperplane."""
    made = torch.Generator().manual_seed(seed)
    return torch.nn.functional.layer_norm(torch.randn(n, d, generator=made), (d,))


# Three points of width four, for cases that are about the reducer rather than its rows.
PAIRS = [(0, 2), (1, 2)]
P, D = 3, 4


def rows(n: int, seed: int = 0) -> Tensor:
    """Draw rows of the three points, float32."""
    return torch.randn(n, P * D, generator=torch.Generator().manual_seed(seed))


def fresh(name: str, **more: Any) -> Any:
    """Make one of the three for them."""
    return reducer(name, P, D, PAIRS, **more)


def maps(state: Any) -> Tensor:
    """Return their maps."""
    return torch.cat([solved(state, *pair, MAT)[1].weight for pair in PAIRS])


def same(one: Any, other: Any) -> bool:
    """Whether two states have the same bits."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        mine[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in mine
    )

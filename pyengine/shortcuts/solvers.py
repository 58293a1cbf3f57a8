"""Which reducer a fit's training rows go into."""

from typing import Any

import torch

from pyengine.checks import check_choice
from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.reducers.tsqr import TSQR
from pyengine.shortcuts.points import TO_LAST, Points
from pyengine.shortcuts.solver_choice import EXACT, GRAM, ROWS, SOLVERS, Choice, choose_solver

AUTO = "auto"
ASKED = (AUTO, *SOLVERS)


def solver_for(
    asked: str, points: Points, which: str, n_rows: int, d_model: int, dtype: torch.dtype
) -> Choice:
    """Choose what is kept of the rows; see `pyengine.shortcuts.solver_choice`.

    Args:
        asked: `auto`: rows or a Gram matrix; `exact`: rows, or a TSQR where its factors are
            smaller; `rows` and `gram` are taken as they are.
        points: of the stack.
        which: pairs of the residual stream, `last` or `all`.
        n_rows: to train on.
        d_model: width of a point.
        dtype: of the rows.
    """
    check_choice("solver", asked, ASKED)
    n = n_points(points)
    if asked == AUTO:
        return choose_solver(n_rows, n, d_model, points.pairs(which))
    if asked != EXACT:
        return Choice(asked, "as asked for")
    kept = RowBuffer.bytes(n_rows, n, d_model, dtype)
    factors = TSQR.bytes(d_model, groups_of(points, which))
    if kept <= factors:
        return Choice(ROWS, f"{n_rows:,} rows take no more than triangular factors")
    return Choice(EXACT, f"{n_rows:,} rows take more than triangular factors")


def reducer_for(
    solver: str,
    points: Points,
    which: str,
    d_model: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Any:
    """Make a fresh reducer for one of `SOLVERS`."""
    n = n_points(points)
    if solver == ROWS:
        return RowBuffer(n, d_model, dtype=dtype, device=device)
    if solver == GRAM:
        return Gram(n, d_model, points.pairs(which), device=device)
    return TSQR(n, d_model, groups_of(points, which), device=device)


def n_points(points: Points) -> int:
    """Count the points of a stack, taps among them."""
    return 1 + max([points.n_blocks, *(tap for block in points.taps for tap in block)])


def groups_of(points: Points, which: str) -> list[tuple[int, ...]]:
    """Return groups of points so that every pair lies in one.

    The residual stream is one group where all its pairs are wanted; other pairs are one each.
    """
    pairs = points.pairs(which)
    if which == TO_LAST:
        return [*pairs]
    stream = tuple(range(points.n_blocks + 1))
    return [stream, *(pair for pair in pairs if not {*pair} <= {*stream})]

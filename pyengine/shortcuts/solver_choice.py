"""Which reducer keeps less: the rows, or the products of their points."""

from collections.abc import Iterable
from typing import NamedTuple

from pyengine.reducers.gram import blocks_of

# What a fit may keep of its rows: themselves, a Gram, or the factor of a TSQR.
ROWS, GRAM, EXACT = "rows", "gram", "exact"
SOLVERS = (ROWS, GRAM, EXACT)


class Choice(NamedTuple):
    """A solver, and one line that says why."""

    solver: str
    why: str


def choose_solver(
    n_rows: int, n_points: int, d_model: int, pairs: Iterable[tuple[int, int]]
) -> Choice:
    """Choose `rows` while they hold no more numbers than the products that the pairs need.

    n rows hold n * n_points * d numbers, b products b * d². For all pairs of L + 1 points they are
    level at about (L + 1) * d / 2 rows.
    """
    blocks = len(blocks_of(pairs, n_points))
    most = blocks * d_model // n_points
    if n_rows <= most:
        why = f"{n_rows:,} rows hold no more than {blocks} products of points, up to {most:,} rows"
        return Choice(ROWS, why)
    why = f"{n_rows:,} rows hold more than {blocks} products of points, beyond {most:,} rows"
    return Choice(GRAM, why)

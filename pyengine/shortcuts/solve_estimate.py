"""How long the maps of a fit take to solve, from solving small ones of random rows."""

import time
from functools import cache

import torch

from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.shortcuts.solve import State, sources
from pyengine.shortcuts.solver_choice import EXACT, GRAM
from pyengine.shortcuts.solvers import groups_of
from pyengine.shortcuts.stack_fit import StackFit

# Wider states, and more rows for each of their dimensions, are taken as proportional.
MOST_WIDTH, MOST_ROWS = 512, 8


def solving_seconds(fit: StackFit, n_rows: int) -> float:
    """Estimate how long all maps of a stack take to solve, with the threads that there are now.

    A source's own factorisation and one map more are timed apart, on random states of at most 512
    dimensions and 8 times as many rows; their time grows as rows x width² and as width³.

    Args:
        fit: of the stack.
        n_rows: training rows.
    """
    width = min(fit.d_model, MOST_WIDTH)
    if fit.solver == EXACT:  # a triangular factor has as many rows as columns
        n_rows = 1 + max(map(len, groups_of(fit.points, fit.which))) * fit.d_model
    shrunk = max(1, round(n_rows * width / fit.d_model))
    kept = min(shrunk, MOST_ROWS * width)
    larger = (fit.d_model / width) ** 3 * (1 if fit.solver == GRAM else shrunk / kept)
    n_sources = len({source for source, _ in fit.pairs})
    one, two = (_seconds(fit.solver, kept, width, n) for n in (1, 2))
    each = max(0.0, two - one)
    return larger * (n_sources * max(0.0, one - each) + len(fit.pairs) * each)


@cache
def _seconds(solver: str, n_rows: int, width: int, n_targets: int) -> float:
    """Solve the maps of one source, and what lower ranks need of the first, once warm."""
    state, pairs = _random(solver, n_rows, width, n_targets), [(0, n + 1) for n in range(n_targets)]
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        for source in sources(state, pairs):
            for number, (_, target) in enumerate(pairs):
                fitted = source.solve(target)
                if not number:
                    source.output_basis(fitted)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _random(solver: str, n_rows: int, width: int, n_targets: int) -> State:
    generator, n_points = torch.Generator().manual_seed(0), 1 + n_targets
    state: State = RowBuffer(n_points, width)
    if solver == GRAM:
        state, n_rows = Gram(n_points, width, [(0, n + 1) for n in range(n_targets)]), 2 * width
    rows = torch.randn(n_rows, n_points * width, generator=generator)
    places = torch.arange(n_rows)
    state.add(rows, places, places)
    return state

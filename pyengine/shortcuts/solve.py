"""Linear maps between points, solved from what a reducer has kept of their rows."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.reducers.gram import Gram
from pyengine.reducers.row_states import exactly
from pyengine.reducers.rows import RowBuffer
from pyengine.reducers.tsqr import TSQR
from pyengine.shortcuts.least_squares import OfProducts, OfRows, Problem
from pyengine.shortcuts.linear_map import AFFINE, KINDS, MAT

# States are float32, and squared singular values must stay above the noise of a float64 Gram.
RCOND = 2.0**-21
# Where that noise begins.
LEAST_OF_GRAM = 2.0**-23
# Of a source's norm: what centring leaves of coordinates that do not vary is below.
NOISE = 2.0**-40

State = RowBuffer | Gram | TSQR


@dataclass(frozen=True, eq=False)
class Fitted:
    """A solution A x + b.

    Attributes:
        weight: A, float64 [d_target, d_source].
        bias: b, float64 [d_target], or None.
    """

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class System:
    """One source with some of its targets.

    Attributes:
        problems: of each kind; for affine maps the rows are centred.
        norm: of the source, not centred, the root of its sum of squares.
        mean: of a point, float64 [d].
    """

    problems: dict[str, Problem]
    norm: Tensor
    mean: Callable[[int], Tensor]


class Source:
    """Everything known of one source under one kind of map; factorised once for all targets.

    Attributes:
        kind: `mat`, least squares without an intercept, or `affine`, with one.
        source: the point.
        targets: the points that maps lead to.
        n_rows: rows that the maps are fitted on.
        rank: singular values of the source (centred for `affine`) that do not count as zero.
        condition: the largest of them by the least; NaN if all count as zero.
    """

    def __init__(
        self,
        kind: str,
        source: int,
        systems: dict[int, System],
        state: State,
        ridge: float,
        rcond: float,
    ) -> None:
        self.kind, self.source = kind, source
        self.n_rows = state.n_rows
        self.targets = tuple(systems)
        self._systems, self._ridge = systems, ridge
        system = next(iter(systems.values()))  # they have the same source
        self._any = system.problems[kind]
        values = self._any.singular_values
        counted = values[_count(values, rcond, system.norm)]
        self.rank = len(counted)
        self.condition = float(counted[0] / counted[-1]) if self.rank else math.nan
        # A ridge is as good as d rows √λ I more: their singular values are what is divided by.
        shrunk = (values.square() + ridge).sqrt()
        self._n_solved = int(_count(shrunk, rcond, system.norm).sum())

    def solve(self, target: int) -> Fitted:
        """Return the map to one of `targets`."""
        system = self._systems[target]
        problem = system.problems[self.kind]
        with exactly(problem.singular_values.device):
            if self._n_solved == len(problem.singular_values):
                solution = problem.unique(target, self._ridge)
            else:
                solution = problem.least_norm(target, self._ridge, self._n_solved)
            weight = solution.t().contiguous()
            if self.kind == MAT:
                return Fitted(weight)
            return Fitted(weight, system.mean(target) - weight @ system.mean(self.source))

    def output_mean(self, fitted: Fitted) -> Tensor:
        """Return A μ, float64 [d], μ the mean of the source: of the outputs, before b is added."""
        mean = next(iter(self._systems.values())).mean(self.source)
        with exactly(mean.device):
            return fitted.weight @ mean

    def output_basis(self, fitted: Fitted) -> tuple[Tensor, Tensor]:
        """Return the directions that a map's outputs vary in, for the best maps of lower rank.

        Reduced-rank regression: the best map of rank r is U_r U_rᵀ A, U_r the first r columns.

        Returns:
            float64 [d, d], columns orthonormal, and [d], the mean square of the outputs (of
            `affine` their variance) along each, descending.
        """
        with exactly(fitted.weight.device):
            product = fitted.weight @ self._any.product() @ fitted.weight.t()
            variances, basis = torch.linalg.eigh(product / self.n_rows)
        return basis.flip(1), variances.flip(0).clamp(min=0)


def sources(
    state: State,
    pairs: Iterable[tuple[int, int]],
    *,
    kinds: Sequence[str] = KINDS,
    ridge: float = 0.0,
    rcond: float = RCOND,
) -> Iterator[Source]:
    """Yield one source after another, each kind of it, factorised.

    Args:
        state: what the rows have been added to.
        pairs: (source, target).
        kinds: of `mat` and `affine`.
        ridge: λ of λ ‖A‖², added to the sum of squared errors; the intercept is not shrunk.
        rcond: singular values below rcond times the largest count as zero (and those below 2**-40
            of the norm of the source). Where some do, maps have the least norm of A. With a ridge
            they are the root of σ² + λ.

    Raises:
        PyengineError: for a pair that the state has nothing of, no rows, or a ridge or rcond out of
            range.
    """
    targets = _grouped(state, pairs)
    _check(state, kinds, ridge, rcond)
    systems_of = _from_products if isinstance(state, Gram) else _from_rows
    folded: Any = state.folded()
    for source in sorted(targets):
        with exactly(state.device):
            systems = systems_of(folded, source, targets[source], kinds)
        for kind in kinds:
            yield Source(kind, source, systems, state, ridge, rcond)


def _grouped(state: State, pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    targets: dict[int, list[int]] = {}
    for source, target in dict.fromkeys(pairs):
        if not (0 <= source < state.n_points and 0 <= target < state.n_points):
            raise PyengineError(f"there is no pair {(source, target)} of {state.n_points} points")
        targets.setdefault(source, []).append(target)
    return targets


def _check(state: State, kinds: Sequence[str], ridge: float, rcond: float) -> None:
    for kind in kinds:
        check_choice("kind", kind, KINDS)
    if not (ridge >= 0 and math.isfinite(ridge)):
        raise PyengineError(f"ridge must be a number from 0 on, got {ridge}")
    least = LEAST_OF_GRAM if isinstance(state, Gram) else 0.0
    if not least <= rcond < 1:
        raise PyengineError(f"rcond must be from {least:.3g} to 1 for this solver, got {rcond}")
    if not state.n_rows:
        raise PyengineError(f"there are no rows to fit maps on ({state.n_nan} are not finite)")


def _count(values: Tensor, rcond: float, norm: Tensor) -> Tensor:
    return (values >= rcond * values[0]) & (values > NOISE * norm)


def _from_rows(
    state: RowBuffer | TSQR, source: int, targets: Sequence[int], kinds: Sequence[str]
) -> dict[int, System]:
    groups = {target: state.group(source, target) for target in targets}
    found = {group: _of_group(state, group, source, kinds) for group in set(groups.values())}
    return {target: found[group] for target, group in groups.items()}


def _of_group(state: RowBuffer | TSQR, group: int, source: int, kinds: Sequence[str]) -> System:
    """Factorise [1 | x] = Q R: R's rows, and Qᵀ's of the targets, stand for either kind's."""
    both = torch.cat([state.columns(group), state.columns(group, source)], dim=1)
    q, r = torch.linalg.qr(both)
    rotated = cache(lambda point: q.t() @ state.columns(group, point))
    made: dict[str, Callable[[], Problem]] = {
        MAT: lambda: OfRows(r[:, 1:], rotated),
        # What is orthogonal to the ones is centred.
        AFFINE: lambda: OfRows(r[1:, 1:], lambda target: rotated(target)[1:]),
    }
    problems = {kind: made[kind]() for kind in kinds}
    return System(problems, r[:, 1:].norm(), lambda point: rotated(point)[0] / r[0, 0])


def _from_products(
    state: Gram, source: int, targets: Sequence[int], kinds: Sequence[str]
) -> dict[int, System]:
    products = {target: state.product(source, target) for target in (source, *targets)}

    def about_zero(target: int) -> Tensor:
        means = state.mean(source), state.mean(target)
        return products[target].addr(*means, alpha=state.n_rows)

    about = {MAT: about_zero, AFFINE: products.__getitem__}
    problems: dict[str, Problem] = {
        kind: OfProducts(about[kind](source), about[kind]) for kind in kinds
    }
    norm = about_zero(source).trace().sqrt()
    system = System(problems, norm, state.mean)
    return dict.fromkeys(targets, system)

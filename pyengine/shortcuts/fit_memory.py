"""What a fit of shortcuts will hold in memory and on disk."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pyengine.extraction.partials import MOST_HELD
from pyengine.extraction.sites import site_width
from pyengine.memory_parts import Holding, Plan
from pyengine.models import Model
from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.reducers.tsqr import TSQR
from pyengine.shortcuts.fit_run import sample_of
from pyengine.shortcuts.fit_settings import FitSettings
from pyengine.shortcuts.linear_map import KINDS
from pyengine.shortcuts.points import Points, points_of
from pyengine.shortcuts.sample import MOST_VALIDATION, TRAIN, VALIDATION, Draw
from pyengine.shortcuts.solver_choice import GRAM, ROWS
from pyengine.shortcuts.solvers import groups_of, n_points, solver_for
from pyengine.shortcuts.stack_fit import state_dtype
from pyengine.store import TokenStore

# More rows than are ever kept: of a corpus that has not been tokenised.
UNKNOWN = 1 << 40


def fit_plan(model: Model, asked: Mapping[str, Any]) -> Plan:
    """Plan a fit by the arguments of `fit_shortcuts`.

    Over a corpus that is not tokenised yet, rows whose number is not known are left out.

    Raises:
        PyengineError: where the fit itself would refuse its settings.
    """
    settings = settings_of(model, asked)
    plan: Plan = {"device": [], "host": [], "disk": []}
    maps = validation = 0
    for stack, (n_train, n_validation) in _counts(model, settings, asked["corpus"]).items():
        points = points_of(model, stack, sub_modules=settings.sub_modules)
        width, n = site_width(model, points.sites[0]), n_points(points)
        dtype = state_dtype(model.dtype)
        solver = solver_for(settings.solver, points, settings.pairs, n_train, width, dtype).solver
        if solver == ROWS:
            state = RowBuffer.bytes(n_train, n, width, dtype) if n_train < UNKNOWN else 0
        else:
            state = _sums(solver, points, settings.pairs, width)
            plan["host"].append(Holding("partial sums", MOST_HELD * state, bound=True))
        if n_validation < UNKNOWN:
            validation += RowBuffer.bytes(n_validation, n, width, dtype)
        plan["device"].append(Holding("training rows" if solver == ROWS else "sums", state))
        in_batch = 2 * settings.batch_tokens * n * width * dtype.itemsize
        plan["device"].append(Holding("rows of a batch", in_batch, bound=True))
        maps += _map_bytes(points, settings.pairs, width)
    plan["device"].append(Holding("validation rows", validation))
    plan["disk"] += [Holding("maps", maps), Holding("validation", validation)]
    return {place: [held for held in holdings if held.n_bytes] for place, holdings in plan.items()}


def settings_of(model: Model, asked: Mapping[str, Any]) -> FitSettings:
    """Return the settings of `fit_shortcuts` for its arguments."""
    drawn = {field.name: asked[field.name] for field in fields(Draw)}
    own = {field.name for field in fields(FitSettings)} - {"draw", "mask_id"}
    more = {name: asked[name] for name in (*own, "mask", "preset")}
    return FitSettings.checked(model, drawn=drawn, **more)


def _counts(model: Model, settings: FitSettings, corpus: Any) -> dict[str, tuple[int, int]]:
    """Count the training and validation rows of each stack, as far as they are known."""
    if isinstance(corpus, TokenStore):
        sample = sample_of(model, settings, corpus)
        roles = TRAIN, VALIDATION
        return {
            stack: (sample.n_rows(stack, roles[0]), sample.n_rows(stack, roles[1]))
            for stack in settings.stacks
        }
    draw = settings.draw
    one = draw.tokens == "one"
    n_train = draw.n_train if one and draw.n_train else UNKNOWN
    n_validation = (draw.n_validation or MOST_VALIDATION) if one else UNKNOWN
    return dict.fromkeys(settings.stacks, (n_train, n_validation))


def _sums(solver: str, points: Points, which: str, width: int) -> int:
    if solver == GRAM:
        return Gram.bytes(width, points.pairs(which))
    return TSQR.bytes(width, groups_of(points, which))


def _map_bytes(points: Points, which: str, width: int) -> int:
    """Return the size of the maps' files: of either kind; of those to the last also what cuts them.

    That is a basis with its variances of either kind, and the mean of the affine map's outputs.
    """
    square, pairs = width * width, points.pairs(which)
    one = 4 * (len(KINDS) * square + width)
    basis = 4 * len(KINDS) * (square + width)
    return len(pairs) * one + points.n_blocks * (basis + 4 * width)

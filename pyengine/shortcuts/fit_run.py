"""The pass of a fit, and what comes of its shards."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pyengine.batches import Batch
from pyengine.errors import PyengineError
from pyengine.extraction.feeds import Feed
from pyengine.extraction.run import Extractor, make_plan
from pyengine.extraction.sites import site_width
from pyengine.manifest import describe, describe_corpus
from pyengine.models import Model
from pyengine.reducers.rows import RowBuffer
from pyengine.shards import Arrays, Merge, Shard
from pyengine.shortcuts.cpu_threads import cpu_threads
from pyengine.shortcuts.fit_settings import FitSettings
from pyengine.shortcuts.masking import masked
from pyengine.shortcuts.points import Points, points_of
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.same_model import unembedding_hash
from pyengine.shortcuts.sample import TRAIN, VALIDATION, Sample
from pyengine.shortcuts.solve import LEAST_OF_GRAM
from pyengine.shortcuts.solved_maps import SolvedMaps
from pyengine.shortcuts.solver_choice import GRAM
from pyengine.shortcuts.solvers import solver_for
from pyengine.shortcuts.stack_fit import StackFit, state_dtype
from pyengine.shortcuts.stored_points import StoredPoints
from pyengine.shortcuts.validation import Validation
from pyengine.store import TokenStore
from pyengine.token_text import TokenText
from pyengine.units import UnitTable

OnSolved = Callable[[int, int], None]


def sample_of(model: Model, settings: FitSettings, store: TokenStore) -> Sample:
    """Draw the units and tokens of a fit.

    Raises:
        PyengineError: if the corpus has too few.
    """
    around = {stack: _around(model, store, stack) for stack in settings.stacks}
    return Sample.of(store, settings.draw, around, causal=model.family.causal)


def manifest_of(
    model: Model, settings: FitSettings, store: TokenStore, sample: Sample
) -> dict[str, Any]:
    """Describe a fit.

    Raises:
        PyengineError: if the solver that is chosen cannot do with so small an rcond.
    """
    points = _points(model, settings)
    d_model = site_width(model, next(iter(points.values())).sites[0])
    chosen = {
        stack: solver_for(
            settings.solver,
            of,
            settings.pairs,
            sample.n_rows(stack, TRAIN),
            d_model,
            state_dtype(model.dtype),
        )
        for stack, of in points.items()
    }
    if settings.rcond < LEAST_OF_GRAM and GRAM in {choice.solver for choice in chosen.values()}:
        raise PyengineError(
            f"rcond must be at least {LEAST_OF_GRAM:.2g} for the solver gram, got "
            f"{settings.rcond:.2g}; the solvers rows and exact take less"
        )
    question = settings.question() | {
        "stacks": list(settings.stacks),
        "points": {stack: StoredPoints.of(of).describe() for stack, of in points.items()},
        "d_model": d_model,
        "n_train": int((sample.roles == TRAIN).sum()),
        "n_validation": int((sample.roles == VALIDATION).sum()),
        "solver": {stack: choice.solver for stack, choice in chosen.items()},
        "adds_special": store.adds_special,
        "unembedding_sha256": unembedding_hash(model),
    }
    manifest = describe("shortcuts", question, settings.numerics(), model, describe_corpus(store))
    # Whether it was chosen or asked for makes no difference to a run.
    return manifest | {"why": {stack: choice.why for stack, choice in chosen.items()}}


def extractor_of(
    model: Model,
    settings: FitSettings,
    sample: Sample,
    manifest: dict[str, Any],
    shard: tuple[int, int],
) -> Extractor:
    """Prepare one shard of the pass."""
    fits = stack_fits(manifest)
    plan = make_plan(
        sample.store,
        shard,
        batch_tokens=settings.batch_tokens,
        block_tokens=settings.block_tokens,
        bos=settings.bos,
        whole_partials=any(fit.sums for fit in fits.values()),
    )
    n_blocks = len(plan.boundaries) - 1
    feeds: list[Feed] = []
    for stack, points in _points(model, settings).items():
        feeds += fits[stack].feeds(points, sample, n_blocks, model.device)
    prepare = None
    if settings.mask_id is not None:
        prepare = masking(sample, settings.stacks[0], settings.mask_id)
    return Extractor(model, plan, feeds, shard, activation=settings.activation, prepare=prepare)


def masking(sample: Sample, stack: str, mask_id: int) -> Callable[[Batch], Batch]:
    """Return what replaces the tokens that are taken by a mask."""

    return lambda batch: masked(batch, *sample.rows(batch, stack), mask_id)


def stack_fits(manifest: dict[str, Any]) -> dict[str, StackFit]:
    """Return the fit of each stack of a manifest."""
    return {stack: StackFit.read(manifest, stack) for stack in manifest["question"]["stacks"]}


def merges_of(manifest: dict[str, Any]) -> list[Merge]:
    """Return how the states of two shards are merged, with as many threads as in the pass."""
    threads = manifest["numerics"]["threads"]
    merges = [merge for fit in stack_fits(manifest).values() for merge in fit.merges()]
    return [partial(_merged, merge, threads) for merge in merges]


def _merged(merge: Merge, threads: int, before: Arrays | None, arrays: Arrays) -> Arrays:
    with cpu_threads(threads):
        return merge(before, arrays)


def n_units_of(manifest: dict[str, Any]) -> int:
    """Count the units that were drawn, which the shards cover."""
    return int(manifest["question"]["n_train"] + manifest["question"]["n_validation"])


def from_shard(
    shard: Shard,
    text: TokenText,
    manifest: dict[str, Any],
    *,
    solve: bool = False,
    on_solved: OnSolved | None = None,
) -> Shortcuts:
    """Turn a complete shard (or a merge of them) into a result; its states are taken out of it.

    Maps are solved when they are asked for, or written; with `solve` here, all of them.
    """
    fits, question = stack_fits(manifest), manifest["question"]
    trained, kept = {}, {}
    threads = manifest["numerics"]["threads"]
    for number, (stack, fit) in enumerate(fits.items()):
        with cpu_threads(threads):
            trained[stack] = fit, fit.trained(_taken(shard, 2 * number))
        kept[stack] = fit.kept(_taken(shard, 2 * number + 1))
    maps = SolvedMaps(
        trained,
        ridge=question["ridge"],
        rcond=question["rcond"],
        threads=threads,
        on_solved=on_solved,
    )
    if solve:
        maps.solve()
    assert shard.table is not None, "only complete shards have a table"
    held = np.unique(np.concatenate([of.units.numpy() for of in kept.values()]))
    table = replace(shard.table, units=held)
    validation = {stack: _validation(of, table) for stack, of in kept.items()}
    reducers = {stack: (trained[stack][1], kept[stack]) for stack in fits}
    counters = {name: shard.record[name] for name in ("n_tokens", "n_computed", "exact")}
    record = counters | {
        "n_rows": {stack: [of.n_rows for of in pair] for stack, pair in reducers.items()},
        "n_nan": {stack: [of.n_nan for of in pair] for stack, pair in reducers.items()},
        "solver": {stack: fit.solver for stack, fit in fits.items()},
    }
    return Shortcuts(maps, validation, text, manifest, record)


def _points(model: Model, settings: FitSettings) -> dict[str, Points]:
    return {
        stack: points_of(model, stack, sub_modules=settings.sub_modules)
        for stack in settings.stacks
    }


def _around(model: Model, store: TokenStore, stack: str) -> tuple[int, int]:
    """Count the special tokens before and after a unit's content that may be taken."""
    if model.family.causal:  # a BOS is the same in every unit, and sees nothing of it
        return 0, 0
    if stack == "decoder":
        return 1, 0  # what it starts with
    special = model.special_tokens()
    return (len(special.prefix), len(special.suffix)) if store.adds_special else (0, 0)


def _taken(shard: Shard, number: int) -> dict[str, np.ndarray]:
    """Take a state out, so that it is not in memory twice."""
    found, shard.states[number] = shard.states[number], {}
    return found


def _validation(kept: RowBuffer, table: UnitTable) -> Validation:
    states = kept.rows.view(-1, kept.n_points, kept.d_model)
    return Validation(states, kept.units, kept.positions, table)

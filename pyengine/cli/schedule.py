"""Who carries out a command over a corpus: this process, torchrun's ranks, or a Ray cluster."""

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import options
from pyengine.cli.display import Advance, err, out
from pyengine.errors import PyengineError
from pyengine.scale.schedule import Schedule, in_ranks

if TYPE_CHECKING:
    from pyengine.models import Model
    from pyengine.scale.work import Report, Work

# What a command asks to be told where this process alone does its work: names to callbacks.
Callbacks = Callable[[Advance], dict[str, Any]]


def schedule_of(shard: str, ray: str | None, tasks: int | None, allow_mixed: bool) -> Schedule:
    """Read the options that say who carries out a command.

    Raises:
        typer.BadParameter: if they exclude each other.
    """
    try:
        return Schedule(options.shard(shard), ray, tasks, allow_mixed)
    except PyengineError as error:
        raise typer.BadParameter(str(error)) from error


def carry_out(
    work: "Work", run: Path, schedule: Schedule, stage: str, callbacks: Callbacks = lambda _: {}
) -> tuple[Any, float]:
    """Carry out a piece of work, with progress; what is interrupted says how to resume.

    Args:
        work: not yet started.
        run: the run directory.
        schedule: who does it.
        stage: what progress is called.
        callbacks: more that the function is given where this process does the work alone.

    Returns:
        The result, and the seconds it took.

    Raises:
        typer.Exit: on every rank but the first, once the result is complete.
    """
    if _is_other_rank():
        _hush()
        schedule.carry_out(work, run, everywhere=False)
        raise typer.Exit
    if schedule.alone:
        work = replace(work, model=work.load())
    started = time.monotonic()
    with given.resumable(run) as advance:

        def tokenising(done: int, total: int) -> None:
            advance("tokenising", done, total)

        if schedule.alone:
            work = _ready(work, tokenising).with_settings(callbacks(advance))
        found = schedule.carry_out(
            work,
            run,
            everywhere=False,
            on_tokenized=tokenising,
            on_ready=_say_memory,
            on_progress=lambda done, total: advance(stage, done, total),
        )
    return found, time.monotonic() - started


def _ready(work: "Work", on_tokenized: "Report") -> "Work":
    """Tokenise, unless the settings are refused already."""
    from pyengine.memory_plan import memory_plan

    memory_plan(work, work.model)
    work = work.tokenized(work.model, on_tokenized)
    _say_memory(work, work.model)
    return work


def _say_memory(work: "Work", model: "Model") -> None:
    """Say what the pass will hold, where that is known."""
    from pyengine.memory_plan import memory_plan

    if (plan := memory_plan(work, model)) is not None:
        err.print(plan.line())


def say_estimate(work: "Work", as_json: bool) -> None:
    """Print what a piece of work would take, found on samples; in ranks the first one does."""
    if _is_other_rank():
        return
    from pyengine.cli.estimate_view import print_estimate
    from pyengine.estimates import estimate

    with err.status("loading") as status:
        found = estimate(
            work,
            work.load(),
            on_tokenized=lambda done, total: status.update(
                f"tokenising {done / max(total, 1):.0%}"
            ),
            on_sample=status.update,
        )
    print_estimate(found, as_json)


def _is_other_rank() -> bool:
    return in_ranks() and int(os.environ["RANK"]) > 0


def say_next(schedule: Schedule, hint: Callable[[], str]) -> None:
    """Say on stderr what may follow; after one shard of several, that they be merged."""
    shard, n_shards = schedule.shard
    if n_shards == 1:
        err.print(f"next: {hint()}")
    else:
        err.print(
            f"shard {shard}/{n_shards} is done; merge with: pyengine merge RUN_1 RUN_2 … --out RUN"
        )


def _hush() -> None:
    """Leave all but errors to the first rank."""
    err.quiet = out.quiet = True
    warnings.simplefilter("ignore")

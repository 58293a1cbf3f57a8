"""Who carries out a command over a corpus: this process, torchrun's ranks, or a Ray cluster."""

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import options
from pyengine.cli.display import Advance, err, human, out
from pyengine.errors import PyengineError
from pyengine.scale.schedule import Schedule, in_ranks

if TYPE_CHECKING:
    from pyengine.analyses.cached_activations_settings import DiskNeed
    from pyengine.estimates import Estimate
    from pyengine.memory_plan import MemoryPlan
    from pyengine.scale.work import Report, Work

# What a command asks to be told where this process alone does its work: names to callbacks.
Callbacks = Callable[[Advance], dict[str, Any]]


class Took(NamedTuple):
    """What a call took, which may have taken up what an earlier one began.

    Attributes:
        seconds: of this call.
        share: the part of the work that this call did, 0 to 1.
    """

    seconds: float
    share: float

    def text(self, amount: int, unit: str) -> str:
        """Write `in 2.0 s (1.5k tokens/s)` for an amount of all the work; no rate for nothing."""
        rate = human(amount * self.share / max(self.seconds, 1e-9))
        return f"in {self.seconds:.1f} s" + (f" ({rate} {unit}/s)" if self.share else "")


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
) -> tuple[Any, Took]:
    """Carry out a piece of work, with progress; what is interrupted says how to resume.

    Args:
        work: not yet started.
        run: the run directory.
        schedule: who does it.
        stage: what progress is called.
        callbacks: more that the function is given where this process does the work alone.

    Returns:
        The result, and what it took.

    Raises:
        typer.Exit: on every rank but the first, once the result is complete.
    """
    if is_other_rank():
        _hush()
        schedule.carry_out(work, run, everywhere=False)
        raise typer.Exit
    schedule.check(run)
    if schedule.alone:
        work = replace(work, model=work.load())
    started, shares = time.monotonic(), _Shares(run)
    with given.resumable(run) as advance:

        def tokenising(done: int, total: int) -> None:
            advance("tokenising", done, total)

        def progress(done: int, total: int) -> None:
            shares.at(done, total)
            advance(stage, done, total)

        if schedule.alone:
            work = _ready(work, run, schedule, tokenising).with_settings(callbacks(advance))
        found = schedule.carry_out(
            work,
            run,
            everywhere=False,
            on_tokenized=tokenising,
            on_ready=_say_ready,
            on_progress=progress,
        )
    return found, Took(time.monotonic() - started, shares.done_here)


class _Shares:
    """Finds out which part of the work this call does.

    What is told first of a run taken up was done before it, except perhaps a first piece.
    """

    def __init__(self, run: Path) -> None:
        from pyengine.manifest import MANIFEST

        self._first: float | None = None if (run / MANIFEST).exists() else 0.0
        self._last = 0.0

    def at(self, done: int, total: int) -> None:
        self._last = done / max(total, 1)
        if self._first is None:
            self._first = self._last

    @property
    def done_here(self) -> float:
        return max(0.0, self._last - (self._first or 0.0))


def _ready(work: "Work", run: Path, schedule: Schedule, on_tokenized: "Report") -> "Work":
    """Tokenise, unless the settings are refused already, or it goes on beside the computing."""
    from pyengine.memory_plan import memory_plan

    plan = memory_plan(work, work.model)
    if not _overlaps(work, run, schedule):
        work = work.tokenized(work.model, on_tokenized)
        plan = memory_plan(work, work.model)
    if plan is not None:
        _say_ready(plan, None)
    return work


def _overlaps(work: "Work", run: Path, schedule: Schedule) -> bool:
    """Whether the function tokenises a text that is new while it computes."""
    from pyengine.analyses.analysis_inputs import is_tokenized
    from pyengine.analyses.triggers import trigger_examples
    from pyengine.corpus import Corpus
    from pyengine.extraction.head_start import overlaps

    model, corpus, asked = work.model, work.corpus, work.settings
    reading = {"bos": asked.get("bos", False), "cache_dir": asked.get("cache_dir")}
    return (
        work.function is trigger_examples
        and asked.get("per") != "prefix"
        and isinstance(corpus, Corpus)
        and overlaps(model, corpus, schedule.shard, run)
        and not is_tokenized(model, corpus, **reading)
    )


def _say_ready(plan: "MemoryPlan", need: "DiskNeed | None") -> None:
    """Say what a pass will hold, and the room it needs."""
    err.print(plan.line())
    if need is not None:
        say_need(need)


def say_need(need: "DiskNeed") -> None:
    """Say how much a pass will take of a file system."""
    from pyengine.analyses.cached_activations_settings import size_text

    each = size_text(need.n_bytes / max(need.size, 1))
    resumed = "" if need.left == need.n_bytes else f", {size_text(need.left)} of it still to write"
    err.print(
        f"{need.size:,} {need.unit} × {each} = {size_text(need.n_bytes)}{resumed}; "
        f"{size_text(need.free)} free"
    )


def say_estimate(work: "Work", schedule: Schedule, as_json: bool) -> None:
    """Print what a piece of work would take; in ranks the first one does.

    Raises:
        typer.BadParameter: for one shard of several.
    """
    from pyengine.cli.estimate_view import print_estimate

    check_whole(schedule)
    if not is_other_rank():
        print_estimate(estimated(work), as_json)


def check_whole(schedule: Schedule) -> None:
    """Refuse an estimate of a shard.

    Raises:
        typer.BadParameter: for one shard of several.
    """
    if schedule.shard[1] > 1:
        raise typer.BadParameter("an estimate is of the whole corpus: leave the shard out")


def estimated(work: "Work") -> "Estimate":
    """Find on samples what a piece of work would take."""
    from pyengine.estimates import estimate

    with err.status("loading") as status:
        return estimate(
            work,
            work.load(),
            on_tokenized=lambda done, total: status.update(
                f"tokenising {done / max(total, 1):.0%}"
            ),
            on_sample=status.update,
        )


def is_other_rank() -> bool:
    """Whether this process leaves it to another to speak."""
    return in_ranks() and int(os.environ["RANK"]) > 0


def speaks() -> bool:
    """Whether this process says what is wrong.

    What all ranks of a machine find before they join, its first one says alone; after that they
    find different things.
    """
    return not in_ranks() or err.quiet or os.environ.get("LOCAL_RANK", "0") == "0"


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

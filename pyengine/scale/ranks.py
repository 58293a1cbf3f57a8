"""The ranks of `torchrun`: processes that take tasks of one run from a common counter.

Every rank computes in the same run directory. They talk only through torchrun's store and a gloo
group, so that it makes no difference whether the models are on CPUs or GPUs.
"""

import time
from pathlib import Path
from typing import Any

import torch

from pyengine.errors import PyengineError
from pyengine.manifest import read_manifest
from pyengine.memory_plan import memory_plan
from pyengine.merge_runs import RunMerge
from pyengine.models import Model
from pyengine.scale.rank_gpus import own_device, tell_gpu
from pyengine.scale.rank_group import POLL_SECONDS, Ranks, joined
from pyengine.scale.room import announce
from pyengine.scale.tasks import TaskFolder, check_shards, is_complete
from pyengine.scale.work import Ready, Report, Work
from pyengine.shards import shard_path

# Between two reports of progress.
REPORT_SECONDS = 0.25
# Network file systems show what another machine wrote after up to a minute.
VISIBLE_SECONDS = 90.0
# Progress is counted in so many parts of a task.
PARTS = 1_000_000


def run_on_ranks(
    work: Work,
    out: Path,
    *,
    n_tasks: int | None = None,
    everywhere: bool = True,
    on_tokenized: Report | None = None,
    on_ready: Ready | None = None,
    on_progress: Report | None = None,
) -> Any:
    """Carry out a piece of work together with the other ranks; all of them call this.

    An interrupted run is taken up, by any number of ranks; a complete one is opened.

    Args:
        work: the same on every rank.
        out: the run directory, which all machines share.
        n_tasks: into how many tasks the work is cut; None: `Work.n_tasks`.
        everywhere: whether every rank opens the result; else only rank 0 does.
        on_tokenized: called on rank 0 with (bytes done, in all).
        on_ready: called on rank 0 before the first task, where the plan of the work is known.
        on_progress: called on rank 0 with what all ranks have done, as `Work.size` counts.

    Returns:
        The result; None on the other ranks unless `everywhere`.

    Raises:
        PyengineError: for what the analysis refuses, a run begun with other settings, by one
            process or with another number of tasks, a directory that the machines do not share,
            too little room for activations, or a rank that has died.
    """
    started = time.time()
    with joined() as ranks:
        tokenized = on_tokenized if ranks.first else None
        tell_gpu(ranks)
        model, work = ranks.after_neighbour(lambda: _ready(work, ranks, tokenized))
        n_tasks = ranks.agreed("tasks", lambda: n_tasks or work.n_tasks(model.device.type))
        todo = ranks.agreed("todo", lambda: _todo(out, n_tasks))
        if todo is not None:
            if ranks.first and todo:
                announce(work, out, on_ready, memory_plan(work, model))
            folder = TaskFolder(out, n_tasks)
            meter = _Meter(ranks, work.size, n_tasks, len(todo), on_progress)
            meter.report()
            _run_tasks(work, model, out, folder, todo, ranks, meter)
            ranks.wait(meter.report)
            if ranks.first:
                _merge(work, out, folder, ranks=ranks.number, seconds=time.time() - started)
            ranks.wait()
        return work.run(model, out, 0, 1) if everywhere or ranks.first else None


def _ready(work: Work, ranks: Ranks, on_tokenized: Report | None) -> tuple[Model, Work]:
    """Load the model where this rank computes, and tokenise."""
    if isinstance(work.model, (str, Path)):
        asked = work.load_settings.get("device", "auto")
        model = work.load(device=own_device(asked, ranks))
    else:
        model = work.load()
    if model.device.type == "cuda":
        torch.cuda.set_device(model.device)
    memory_plan(work, model)  # refuses settings before a long corpus is read
    return model, work.tokenized(model, on_tokenized).checked(model)


def _todo(out: Path, n_tasks: int) -> list[int] | None:
    """List the tasks to do; None where the run is complete."""
    if is_complete(out):
        return None
    todo = TaskFolder(out, n_tasks).todo()
    check_shards(out, n_tasks)
    return todo


def _run_tasks(
    work: Work,
    model: Model,
    out: Path,
    folder: TaskFolder,
    todo: list[int],
    ranks: Ranks,
    meter: "_Meter",
) -> None:
    """Take tasks until there are none left.

    Rank 0 begins alone: it makes the run directory, and if something is wrong it says so once.
    """
    if not ranks.first:
        ranks.hear("begun")

    def progress(done: int, total: int) -> None:
        folder.begin()
        ranks.tell("begun")
        meter.at(done, total)

    while (index := ranks.add("task", 1) - 1) < len(todo):
        task = todo[index]
        work.run(model, out, task, folder.n_tasks, progress)
        folder.finish(task, rank=ranks.rank)
        progress(1, 1)
        meter.next_task()
    ranks.tell("begun")


def _merge(work: Work, out: Path, folder: TaskFolder, **provenance: Any) -> None:
    n_tasks, deadline = folder.n_tasks, time.monotonic() + VISIBLE_SECONDS
    while (missing := folder.todo()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if missing:
        raise PyengineError(
            f"{out} lacks {len(missing)} of {n_tasks} tasks (the first is {missing[0]}), which "
            "other machines did elsewhere: give a directory that all of them share"
        )
    merge = RunMerge(read_manifest(out), reducers=work.own_reducers)
    for task in range(n_tasks):
        merge.add(out, shard_path(out, task, n_tasks))
    merge.finish(out, mixed=folder.mixed(), **provenance)


class _Meter:
    """Adds up what all ranks have done, and reports it on rank 0."""

    def __init__(
        self, ranks: Ranks, size: int, n_tasks: int, n_todo: int, report: Report | None
    ) -> None:
        self._ranks, self._size, self._n_tasks = ranks, size, n_tasks
        self._before = (n_tasks - n_todo) * PARTS
        self._report = report if ranks.first else None
        self._told, self._next = 0, 0.0

    def at(self, done: int, total: int) -> None:
        """Say how much of its task this rank has done."""
        if time.monotonic() < self._next and done < total:
            return
        self._next = time.monotonic() + REPORT_SECONDS
        parts = PARTS * done // max(total, 1)
        self._ranks.add("progress", parts - self._told)
        self._told = parts
        self.report()

    def next_task(self) -> None:
        """Begin to count the next task."""
        self._told = 0

    def report(self) -> None:
        """Report what all ranks have done."""
        if self._report is not None:
            parts = self._before + self._ranks.add("progress", 0)
            self._report(self._size * parts // (self._n_tasks * PARTS), self._size)

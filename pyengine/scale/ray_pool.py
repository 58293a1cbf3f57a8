"""Workers on a Ray cluster: as many as there is room and work for; lost ones are replaced."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from pyengine.errors import PyengineError

# How often a task may be lost before it is taken for what kills its workers.
MAX_LOSSES = 4
# What a node that is ill raises (a full disk, a broken GPU); another one may do the task.
ILL = (OSError, RuntimeError)
WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Need:
    """What a worker takes of its node.

    Attributes:
        resource: `CPU` or `GPU`.
        amount: of the resource.
    """

    resource: str
    amount: int

    @property
    def options(self) -> dict[str, Any]:
        """The actor's options."""
        return {f"num_{kind.lower()}s": self.of(kind) for kind in ("CPU", "GPU")}

    def of(self, resource: str) -> int:
        return self.amount if resource == self.resource else 0

    def room(self) -> int:
        """Return how many workers the cluster holds, whoever else uses it."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(int(resources.get(self.resource, 0)) // self.amount for resources in nodes)


class Job(NamedTuple):
    """What a worker is at: a task, or None while it loads the model."""

    worker: Any
    task: int | None


class Pool:
    """Workers that take one task after the other.

    Args:
        start: makes a worker, a handle of `ray_worker.Worker`.
        need: what each takes.
        n_tasks: into how many tasks the work is cut.
        between: called between waits, with the tasks at work.

    Attributes:
        losses: how often each task was lost with its worker; None counts workers that did not come
            to a task, since the last that did.
        n_lost: workers lost in all.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        need: Need,
        n_tasks: int,
        between: Callable[[list[int]], None],
    ) -> None:
        self._start, self._need, self._n_tasks, self._between = start, need, n_tasks, between
        self._todo: deque[int] = deque()
        self._workers: list[Any] = []
        self._idle: list[Any] = []
        self._jobs: dict[ray.ObjectRef, Job] = {}
        self.losses: Counter[int | None] = Counter()
        self.n_lost = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            ray.kill(worker)

    @property
    def at_work(self) -> list[int]:
        """The tasks that workers are at."""
        return [job.task for job in self._jobs.values() if job.task is not None]

    def results(self, tasks: Iterable[int]) -> Iterator[tuple[int | None, Any]]:
        """Have some tasks carried out.

        Yields:
            None and what the worker says, for each one that is ready, before it gets a task; at
            least one, even if there are no tasks. Then (task, files), in any order.

        Raises:
            PyengineError: what a worker raised, or that a task was lost too often.
        """
        self._todo.extend(tasks)
        begun = False
        while self._todo or self.at_work or not begun:
            self._top_up()
            ready, _ = ray.wait(list(self._jobs), timeout=WAIT_SECONDS)
            for ref in ready:
                for result in self._receive(ref):
                    begun = True
                    yield result
            self._between(self.at_work)

    def _top_up(self) -> None:
        """Start as many workers as there is room for, and one that waits for a node to join."""
        while self._idle and self._todo:
            self._hand_out(self._idle.pop())
        n_left = len(self._todo) + len(self.at_work)
        for _ in range(len(self._workers), min(max(1, n_left), self._need.room() + 1)):
            worker = self._start()
            self._workers.append(worker)
            self._jobs[worker.begin.remote()] = Job(worker, None)

    def _hand_out(self, worker: Any) -> None:
        if not self._todo:
            self._idle.append(worker)
            return
        task = self._todo.popleft()
        self._jobs[worker.carry_out.remote(task, self._n_tasks)] = Job(worker, task)

    def _receive(self, ref: ray.ObjectRef) -> Iterator[tuple[int | None, Any]]:
        job = self._jobs.pop(ref)
        try:
            found = ray.get(ref)
        except RayTaskError as error:
            if not isinstance(error.cause, ILL):
                raise _raised(error) from error
            self._lose(job, error.cause)
            return
        except RayError as error:
            self._lose(job, error)
            return
        if job.task is None:
            del self.losses[None]
            yield None, found
            self._hand_out(job.worker)
        else:
            self._hand_out(job.worker)  # it computes while its files are written
            yield job.task, found

    def _lose(self, job: Job, error: Exception) -> None:
        ray.kill(job.worker)  # it may only be out of reach, or ill
        self._workers.remove(job.worker)
        self.n_lost += 1
        self.losses[job.task] += 1
        if self.losses[job.task] > MAX_LOSSES:
            what = "before it had a task" if job.task is None else f"with task {job.task}"
            raise PyengineError(
                f"a worker was lost {what}, {self.losses[job.task]} times; the last time: "
                f"{_line(error)} (what is done is kept: the same call takes up the rest)"
            ) from error
        if job.task is not None:
            self._todo.appendleft(job.task)


def _raised(error: RayTaskError) -> PyengineError:
    """Return what a worker raised, in one line; the worker's traceback is in the cause."""
    cause = error.cause
    if isinstance(cause, PyengineError):
        return PyengineError(str(cause))
    return PyengineError(f"a worker failed: {type(cause).__name__}: {_line(cause)}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

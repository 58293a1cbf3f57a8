"""One piece of work on a Ray cluster: a driver, and workers that share no file system with it."""

import contextlib
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as NodeAffinity

from pyengine.errors import PyengineError
from pyengine.memory_plan import MemoryPlan, memory_plan
from pyengine.models import Model
from pyengine.scale.collected import Collected
from pyengine.scale.ray_pool import Need, Pool
from pyengine.scale.ray_worker import Place, Progress, Worker, sweep
from pyengine.scale.room import announce
from pyengine.scale.work import Ready, Report, Work

# A node that does not answer for so long keeps what is in its temporary directory.
SWEEP_SECONDS = 15.0
CONNECT_SECONDS = 15.0


def run_on_ray(
    work: Work,
    out: Path,
    *,
    address: str | None = None,
    n_tasks: int | None = None,
    allow_mixed: bool = False,
    n_threads: int = 0,
    on_tokenized: Report | None = None,
    on_ready: Ready | None = None,
    on_progress: Report | None = None,
) -> Any:
    """Carry out a piece of work on a Ray cluster, and merge the tasks as they finish.

    A worker takes a GPU where the cluster has some and the device asked for is `auto` or `cuda`,
    else as many CPUs as this process has threads. A dead worker or node costs only what it was at;
    so does a dead driver: the same call takes up the rest, on any cluster.

    Args:
        work: every node must be able to load the model, by its name or folder, and to import the
            functions and reducers in it.
        out: the run directory, of this machine.
        address: `auto`, `host:port` or `ray://host:port`; None or `local` starts a cluster of this
            machine, and ends it; `any` is `auto`, and `local` where there is none. Where this
            process is connected already, that cluster is used.
        n_tasks: into how many tasks the work is cut, at least 2; None: `Work.n_tasks`.
        allow_mixed: accept workers that differ in numerics (GPUs, versions); the result is then
            recorded as not bit-exact.
        n_threads: for merging; 0 takes all cores.
        on_tokenized: called with (bytes done, in all).
        on_ready: called before the first task, with the plan of the first worker that is ready,
            where it is known.
        on_progress: called with what all workers have done, as `Work.size` counts.

    Returns:
        The result.

    Raises:
        PyengineError: if the cluster cannot be reached or has no room for a worker, for a run begun
            otherwise, too little room for activations, what a worker raises, or a task that was
            lost too often.
    """
    model = _local_model(work)
    with connected(address):
        if model is not None:
            work = work.tokenized(model, on_tokenized)
            del model
        need, device = _need(work)
        # Of one task alone a worker would make the complete run.
        n_tasks = max(2, n_tasks or work.n_tasks("cuda" if need.resource == "GPU" else "cpu"))
        collected = Collected(
            out, n_tasks, work.own_reducers, allow_mixed=allow_mixed, n_threads=n_threads
        )
        ready = partial(announce, work, out, on_ready)
        return _drive(work, need, device, collected, ready, on_progress)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster unless this process is connected; end what was begun here."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or "local"
    _check_reachable(address)
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        _init(address)
    except (RayError, ConnectionError, ImportError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise PyengineError(f"cannot connect to a Ray cluster at {address!r}: {reason}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)  # Ray has put its own there
    try:
        yield
    finally:
        ray.shutdown()


def _init(address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "any":
        try:
            ray.init("auto", **options)
            return
        except ConnectionError:
            if "RAY_ADDRESS" in os.environ:  # one was meant
                raise
            address = "local"
    if address == "local":
        options["include_dashboard"] = False
    ray.init(address, **options)


def _check_reachable(address: str) -> None:
    """Refuse a host and port where nobody answers: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise PyengineError(f"cannot connect to a Ray cluster at {address!r}: {error}") from error


def _local_model(work: Work) -> Model | None:
    """Load a model to tokenise with, if that is to be done; its precision does not matter.

    Raises:
        PyengineError: for settings that the analysis refuses, before there is a cluster.
    """
    if not work.is_text:
        return None
    model = work.load(device=_device(work, "cpu"), dtype=None)
    if model.dtype != "float64":  # refused as such, while the workers may load it in less
        memory_plan(work, model)
    return model


def _device(work: Work, device: str) -> str:
    """Return where to load the model: objects stay where they are."""
    return device if isinstance(work.model, (str, Path)) else "auto"


def _need(work: Work) -> tuple[Need, str]:
    """Choose what a worker takes, and the device that it loads the model on."""
    asked = str(work.load_settings.get("device", "auto"))
    if asked.startswith("cuda:"):
        raise PyengineError(f"device {asked!r} names one GPU, but workers take any; say 'cuda'")
    gpu, cpu = Need("GPU", 1), Need("CPU", torch.get_num_threads())
    if asked != "cpu" and _device(work, "cuda") == "cuda" and gpu.room():
        return gpu, "cuda"
    if asked == "cuda":
        raise PyengineError("device 'cuda' asked for, but the Ray cluster has no GPU")
    if not cpu.room():
        raise PyengineError(
            f"no node of the Ray cluster has {cpu.amount} CPUs, one for each thread of this "
            "process; set OMP_NUM_THREADS to fewer"
        )
    return cpu, _device(work, "cpu")


def _drive(
    work: Work,
    need: Need,
    device: str,
    collected: Collected,
    ready: Callable[[MemoryPlan | None], None],
    on_progress: Report | None,
) -> Any:
    """Have workers do what is left, and return the result."""
    name, untold = uuid.uuid4().hex, bool(collected.todo)
    with contextlib.ExitStack() as held:
        meter = _Meter(work.size, collected, on_progress)
        held.callback(ray.kill, meter.progress)

        def between(at_work: list[int]) -> None:
            collected.merge_one()
            meter.tell(at_work)

        start = _starter(work, need, device, name, meter.progress)
        pool = Pool(start, need, collected.n_tasks, between)
        held.callback(_sweep, name)
        with pool:
            for task, found in pool.results(collected.todo):
                if task is None:
                    if untold:
                        ready(found.plan)
                        untold = False
                    collected.admit(found, held)
                else:
                    collected.collect(task, found)
        return collected.finish(lost_workers=pool.n_lost)


def _starter(work: Work, need: Need, device: str, name: str, progress: Any) -> Callable[[], Any]:
    """Put the work into the object store, once, and return what starts a worker on it."""
    place = Place(device, torch.get_num_threads(), os.environ.get("PYENGINE_BACKEND"), os.getcwd())
    worker: Any = ray.remote(Worker)
    return partial(worker.options(**need.options).remote, [ray.put(work)], place, name, progress)


def _sweep(name: str) -> None:
    """Have the nodes remove what killed workers left in their temporary directories."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    places = [NodeAffinity(node, soft=False) for node in nodes]
    task: Any = ray.remote(sweep)
    asked = [task.options(num_cpus=0, scheduling_strategy=place).remote(name) for place in places]
    ray.wait(asked, num_returns=len(asked), timeout=SWEEP_SECONDS)


class _Meter:
    """Adds up what the workers have done, and reports it; never less than before.

    Attributes:
        progress: the actor that they tell.
    """

    def __init__(self, size: int, collected: Collected, report: Report | None) -> None:
        self._size, self._collected, self._report, self._told = size, collected, report, -1
        here = NodeAffinity(ray.get_runtime_context().get_node_id(), soft=True)
        actor: Any = ray.remote(Progress)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        self.progress = actor.options(**options).remote()

    def tell(self, at_work: list[int]) -> None:
        """Report what is done, with the parts of the tasks at work."""
        if self._report is None:
            return
        parts: dict[int, float] = {}
        with contextlib.suppress(RayError):  # it may have died with its node, and begin again
            parts = ray.get(self.progress.parts.remote(), timeout=1)
        done = self._collected.n_done + sum(parts.get(task, 0.0) for task in at_work)
        now = int(self._size * done / self._collected.n_tasks)
        if now > self._told:
            self._told = now
            self._report(now, self._size)

"""What runs on the nodes of a Ray cluster: workers, and the actor that they tell their progress to.

No file system is shared: a worker computes in a directory of its own, and hands over the files.
"""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyengine.errors import PyengineError

if TYPE_CHECKING:  # sweeping a node's scratch directories takes no torch
    from ray import ObjectRef

    from pyengine.memory_plan import MemoryPlan
    from pyengine.scale.work import Report, Work

REPORT_SECONDS = 0.5
SCRATCH, LOCK = "pyengine-scratch-", "lock"
# The first of so many tasks is empty: it leaves the manifest of the run, and nothing else.
NO_TASK = (0, 1 << 31)

# Contents (uint8 [n]) by name relative to the run directory; Ray copies no array that it hands out.
Files = dict[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """How a worker computes; what decides the bits comes from the driver.

    Attributes:
        device: `cpu`, `cuda` (Ray shows a worker its own GPU only), or `auto`.
        threads: of torch.
        backend: `PYENGINE_BACKEND`, None where it is not set.
        folder: what relative paths mean, where the node has it.
    """

    device: str
    threads: int
    backend: str | None
    folder: str


@dataclass(frozen=True)
class Begun:
    """What a worker says when it is ready.

    Attributes:
        node: the host's name.
        manifest: of a run on this worker.
        files: what else every run directory holds (the tokenizer).
        plan: what it will hold, where that is known.
    """

    node: str
    manifest: dict[str, Any]
    files: Files
    plan: "MemoryPlan | None" = None


class Worker:
    """An actor that loads the model once and then carries out tasks.

    Args:
        given: holds a reference to the work (over a token store, or facts): Ray would unpack a bare
            one before there is anybody to say what is wrong with it.
        place: how to compute.
        name: what its scratch directories are named after.
        progress: a handle of `Progress`.
    """

    def __init__(self, given: "list[ObjectRef]", place: Place, name: str, progress: Any) -> None:
        self._given, self._place, self._name, self._progress = given, place, name, progress
        self._work: Work
        self._model: Any

    def begin(self) -> Begun:
        """Load the model, and describe the run as this worker would compute it.

        Raises:
            PyengineError: if the work or the model cannot be loaded here, or for what the analysis
                refuses.
        """
        import torch

        from pyengine.memory_plan import memory_plan

        torch.set_num_threads(self._place.threads)
        if self._place.backend is not None:
            os.environ["PYENGINE_BACKEND"] = self._place.backend
        with contextlib.suppress(OSError):
            os.chdir(self._place.folder)
        sweep()
        self._work = self._unpack()
        self._model = self._load()
        self._work = self._work.checked(self._model)
        with scratch(self._name) as run:
            self._work.run(self._model, run, *NO_TASK)
            files = _read(run, "*")
        manifest = json.loads(files.pop("manifest.json").tobytes())
        return Begun(platform.node(), manifest, files, memory_plan(self._work, self._model))

    def _unpack(self) -> "Work":
        import ray

        try:
            return ray.get(self._given[0])
        except ray.exceptions.RaySystemError as error:
            reason = str(error).splitlines()[0]
            raise PyengineError(
                f"{platform.node()} cannot unpack the work: {reason}; functions and reducers of "
                "your own must be importable on every node"
            ) from error

    def _load(self) -> Any:
        try:
            return self._work.load(device=self._place.device)
        except PyengineError as error:
            raise PyengineError(
                f"{error}; it must be loadable on every node of the cluster, and {platform.node()} "
                "could not"
            ) from error

    def carry_out(self, task: int, n_tasks: int) -> Files:
        """Carry out a task; return the files that it leaves in a run directory.

        Raises:
            PyengineError: for what the analysis refuses.
        """
        with scratch(self._name) as run:
            self._work.run(self._model, run, task, n_tasks, self._report(task))
            return _read(run, "*/*")

    def _report(self, task: int) -> "Report":
        told = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal told
            if (now := time.monotonic()) - told >= REPORT_SECONDS:
                told = now
                self._progress.tell.remote(task, done / max(total, 1))

        return report


class Progress:
    """An actor that knows how far the tasks at work have come."""

    def __init__(self) -> None:
        self._parts: dict[int, float] = {}

    def tell(self, task: int, part: float) -> None:
        """Note that a part of a task, 0 to 1, is done."""
        self._parts[task] = part

    def parts(self) -> dict[int, float]:
        """Return the part of each task that is done."""
        return self._parts


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Make a directory that is gone afterwards; if the process is killed, `sweep` removes it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{name}-"))
        with contextlib.ExitStack() as held:
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            stream = held.enter_context((folder / LOCK).open("w"))
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not (folder / LOCK).exists():
                continue  # swept between the two lines above
            (folder / "run").mkdir()
            yield folder / "run"
            return


def sweep(name: str = "") -> None:
    """Remove the scratch directories of dead processes on this node.

    Args:
        name: also wait for those of this name, whose processes are about to die.
    """
    for lock in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{LOCK}"):
        dying = name and lock.parent.name.startswith(f"{SCRATCH}{name}-")
        # A directory of a living process, or of another user, is left alone.
        with contextlib.suppress(OSError), lock.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX if dying else fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def _read(run: Path, pattern: str) -> Files:
    found = (path for path in sorted(run.glob(pattern)) if path.is_file())
    return {str(path.relative_to(run)): _contents(path) for path in found}


def _contents(path: Path) -> np.ndarray:
    """Map a file, so that it goes into the object store without another copy in memory."""
    if path.stat().st_size == 0:  # cannot be mapped
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)

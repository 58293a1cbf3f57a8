"""The run directory of tasks that were carried out elsewhere: their files, and their merging."""

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.extraction.result import Extraction
from pyengine.extraction.specs import specs_of
from pyengine.files import atomic_write
from pyengine.manifest import MANIFEST, differences, read_manifest
from pyengine.merge_runs import RunMerge
from pyengine.run import RunFolder, open_run, verify
from pyengine.scale.ray_worker import Begun, Files
from pyengine.scale.tasks import TaskFolder, check_shards, is_complete
from pyengine.shards import shard_path


class Collected:
    """The run directory that the workers' files come into, and their merging.

    Args:
        out: the run directory.
        n_tasks: into how many tasks the work is cut.
        own_reducers: of an `extract`, the user's own.
        allow_mixed: accept workers that differ in numerics.
        n_threads: for merging; 0 takes all cores.

    Raises:
        PyengineError: for a run that was begun by one process, or with another number of tasks.

    Attributes:
        n_tasks: into how many tasks the work is cut.
        todo: the tasks that were not done when this began.
        n_done: how many are done.
    """

    def __init__(
        self,
        out: Path,
        n_tasks: int,
        own_reducers: Sequence[Any],
        *,
        allow_mixed: bool,
        n_threads: int,
    ) -> None:
        self.n_tasks, self._out, self._own, self._n_threads = n_tasks, out, own_reducers, n_threads
        self._ignored = ("numerics",) if allow_mixed else ()
        self._folder = TaskFolder(out, n_tasks)
        self.todo = [] if is_complete(out) else self._folder.todo()
        if self.todo:
            check_shards(out, n_tasks)
        self.n_done = n_tasks - len(self.todo)
        self._unmerged = deque(sorted(self._folder.done()))
        self._run: RunFolder | None = None
        self._merge: RunMerge | None = None
        self._mixed, self._nodes, self._started = False, set[str](), time.time()

    def admit(self, begun: Begun, held: contextlib.ExitStack) -> None:
        """Accept a worker that computes what the run holds; the first begins the run, or joins it.

        Args:
            begun: what the worker said.
            held: keeps the run locked.

        Raises:
            PyengineError: naming what differs.
        """
        if self._run is None:
            self._run = self._join(begun, held)
        if found := differences(self._run.manifest, begun.manifest, self._ignored):
            raise PyengineError(
                f"the worker on {begun.node} computes otherwise ({'; '.join(found)}); "
                "--allow-mixed accepts other numerics"
            )
        self._mixed |= bool(differences(self._run.manifest, begun.manifest))
        self._nodes.add(begun.node)

    def _join(self, begun: Begun, held: contextlib.ExitStack) -> RunFolder:
        manifest = dict(begun.manifest)
        if (self._out / MANIFEST).exists():
            before = read_manifest(self._out)
            manifest |= {section: before[section] for section in self._ignored}
        run = RunFolder.begin(self._out, manifest)
        if not run.complete:
            held.enter_context(run.lock(0, 1))
            self._write(begun.files)
            self._folder.begin()
            threads, own = self._n_threads, self._own
            self._merge = RunMerge(run.manifest, n_threads=threads, reducers=own)
        return run

    def collect(self, task: int, files: Files) -> None:
        """Keep what a task has left; from then on it is done."""
        self._write(files)
        self._folder.finish(task, files, mixed=self._mixed)
        self._unmerged.append(task)
        self.n_done += 1

    def _write(self, files: Files) -> None:
        for name in sorted(files, key=lambda name: name.endswith(".json")):  # markers last
            atomic_write(self._out / name, files[name].tofile)

    def merge_one(self) -> None:
        """Merge a task that has not been merged, if there is one."""
        if self._merge is not None and self._unmerged:
            task = self._unmerged.popleft()
            self._merge.add(self._out, shard_path(self._out, task, self.n_tasks))

    def finish(self, **provenance: Any) -> Any:
        """Complete the run, or open the one that was complete."""
        if self._merge is None:
            return self._opened()
        while self._unmerged:
            self.merge_one()
        facts = {"nodes": sorted(self._nodes), "seconds": time.time() - self._started}
        return self._merge.finish(self._out, mixed=self._folder.mixed(), **facts, **provenance)

    def _opened(self) -> Any:
        if not self._own:
            return open_run(self._out)
        manifest = verify(self._out)
        return Extraction.open(self._out, manifest, specs_of(manifest, self._own))

"""Which tasks of a run are done: a marker each in the run directory, written after their files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.files import atomic_write_text

FOLDER = "tasks"


class TaskFolder:
    """The markers of the tasks that are done.

    Args:
        run: the run directory.
        n_tasks: into how many tasks the work is cut.

    Raises:
        PyengineError: if the run was begun with another number of tasks.
    """

    def __init__(self, run: Path, n_tasks: int) -> None:
        self._folder, self.n_tasks = run / FOLDER, n_tasks
        for path in self._folder.glob("*.json"):
            if (begun := int(path.stem.rpartition("-")[2])) != n_tasks:
                raise PyengineError(
                    f"{run} was begun with {begun} tasks, not {n_tasks}; give --tasks {begun}, or "
                    "another directory"
                )

    def done(self) -> set[int]:
        """Return the tasks that are done."""
        return {int(path.stem.partition("-")[0]) for path in self._folder.glob("*.json")}

    def todo(self) -> list[int]:
        """Return the other ones, in order."""
        return sorted(set(range(self.n_tasks)) - self.done())

    def finish(self, task: int, files: Iterable[str] = (), **facts: Any) -> None:
        """Vouch for a task whose files are in the run directory."""
        record = {"files": sorted(files), **facts}
        path = self._folder / f"{task:05d}-of-{self.n_tasks:05d}.json"
        atomic_write_text(path, json.dumps(record, indent=2, sort_keys=True) + "\n")

    def mixed(self) -> bool:
        """Whether a task was carried out with other numerics than the run's manifest has."""
        markers = [json.loads(path.read_text("utf-8")) for path in self._folder.glob("*.json")]
        return any(marker.get("mixed") for marker in markers)

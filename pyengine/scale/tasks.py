"""Which tasks of a run are done: a marker each in the run directory, written after their files."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.files import atomic_write_text
from pyengine.manifest import MANIFEST, read_manifest
from pyengine.shards import FOLDER as SHARDS

FOLDER = "tasks"


def is_complete(run: Path) -> bool:
    """Whether a directory holds a complete run.

    Raises:
        PyengineError: if its manifest is damaged.
    """
    return (run / MANIFEST).exists() and read_manifest(run)["status"] == "complete"


def check_alone(run: Path, n_shards: int) -> None:
    """Refuse a process alone on an unfinished run that it would begin again from the start.

    What ranks or a driver left that died before they had done anything is removed.

    Args:
        run: the run directory, which need not exist.
        n_shards: of how many shards the process computes one.

    Raises:
        PyengineError: if the run was begun with tasks, or another number of shards.
    """
    if is_complete(run):
        return
    if (run / FOLDER).exists():
        for path in (*(run / FOLDER).glob("*.json"), *(run / SHARDS).glob("*.safetensors")):
            number = _number(path)
            raise PyengineError(
                f"{run} was begun with {number} tasks; use torchrun, or --ray, with --tasks "
                f"{number}, or another directory"
            )
        shutil.rmtree(run / FOLDER)
    check_shards(run, n_shards)


def check_shards(run: Path, number: int) -> None:
    """Refuse an unfinished run that has checkpoints of another number of shards.

    Raises:
        PyengineError: naming how it was begun.
    """
    for path in (run / SHARDS).glob("*.safetensors"):  # not the locks: one of a dead driver stays
        if (begun := _number(path)) == number:
            continue
        if begun == 1:
            raise PyengineError(
                f"{run} was begun by one process; leave torchrun, --ray and --shard out, or use "
                "another directory"
            )
        raise PyengineError(
            f"{run} was begun with {begun} shards; take it up with as many (--shard i/{begun}; "
            f"torchrun or --ray with --tasks {begun}), or use another directory"
        )


def _number(path: Path) -> int:
    """Return the n of a file's name `iiiii-of-nnnnn`."""
    return int(path.stem.rpartition("-")[2])


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
            if (begun := _number(path)) != n_tasks:
                raise PyengineError(
                    f"{run} was begun with {begun} tasks, not {n_tasks}; give --tasks {begun}, or "
                    "another directory"
                )

    def begin(self) -> None:
        """Leave a sign that tasks have begun in this run, though none may be done."""
        self._folder.mkdir(parents=True, exist_ok=True)

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

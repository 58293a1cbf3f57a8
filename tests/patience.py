"""Waiting in tests: as long as a slow machine needs, and not for ever for what hangs."""

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 1200.0  # seconds


def wait_for(condition: Callable[[], Any], every: float = 0.02) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(every)


def be_killed() -> None:
    """Wait until somebody ends this process."""
    time.sleep(PATIENCE)
    raise AssertionError("nobody has killed this process")


def in_processes(work: Callable[[int], Any], n: int) -> None:
    """Do n pieces of work at the same time, each in a process of its own, and wait for all."""
    fork = multiprocessing.get_context("fork")  # importing torch anew would take most of the time
    children = [fork.Process(target=work, args=(i,)) for i in range(n)]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE)
    assert [child.exitcode for child in children] == [0] * n


def kill_often(work: Callable[[], Any], run: Path, pattern: str, kills: int) -> None:
    """Begin some work in processes of their own, and kill each at a random moment.

    Each first gets far enough to write another file; what is complete before it is killed is
    removed and begun again, so that a slow machine only takes longer.

    Args:
        work: takes up what is in the run directory.
        run: the run directory.
        pattern: of the files in it that hold what is done so far.
        kills: how many processes are killed; at least a third of them had taken up a run.
    """
    # Forked, because importing torch anew for every kill would take most of the time.
    fork, rng = multiprocessing.get_context("fork"), random.Random(0)
    killed = resumed = 0
    while killed < kills or 3 * resumed < kills:
        before = _state(run, pattern)
        child = fork.Process(target=work)
        child.start()
        while child.is_alive() and _state(run, pattern) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        child.kill()
        child.join()
        if child.exitcode == 0:
            shutil.rmtree(run)
            continue
        assert child.exitcode == -signal.SIGKILL
        killed += 1
        resumed += bool(before)


def _state(run: Path, pattern: str) -> set[tuple[str, int]]:
    try:
        return {(path.name, path.stat().st_mtime_ns) for path in run.glob(pattern)}
    except FileNotFoundError:  # replaced, or removed, meanwhile
        return _state(run, pattern)

"""Work on a Ray cluster: the bits of one process, whoever dies on the way."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray_helpers
import torch
from patience import PATIENCE, wait_for
from ray.cluster_utils import Cluster
from ray_helpers import (
    JOINED,
    N_TASKS,
    WORKS,
    begun,
    logged_work,
    n_lost,
    processes,
    results,
    tasks_done,
)

import pyengine
from pyengine.analyses import cached_activations_settings
from pyengine.errors import PyengineError
from pyengine.scale import on_ray, ray_pool, ray_worker
from pyengine.scale.on_ray import run_on_ray
from pyengine.scale.tasks import TaskFolder
from pyengine.scale.work import Work
from pyengine.store import tokenize

NODE: Any = {"num_cpus": 1, "object_store_memory": 80 << 20}
TESTS = Path(__file__).parent
Report = Callable[[int, int], None]


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """Where the nodes keep temporary files (sockets need a short path); they know our modules."""
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{TESTS.parent}")
        # Ray's own patience is made for machines that do nothing else.
        for name in (
            "gcs_server_port_wait_time_s",
            "gcs_server_request_timeout_seconds",
            "raylet_start_wait_time_s",
            "worker_register_timeout_seconds",
        ):
            patch.setenv(f"RAY_{name}", f"{PATIENCE:.0f}")
        patch.setenv("RAY_agent_register_timeout_ms", f"{1000 * PATIENCE:.0f}")
        patch.setenv("RAY_health_check_timeout_ms", "60000")
        patch.setattr(on_ray, "SWEEP_SECONDS", PATIENCE)
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(temporary: Path) -> Iterator[Cluster]:
    """Two nodes of one CPU each, which this process is connected to."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process finds with `logged_work`."""
    folder = tmp_path_factory.mktemp("alone")
    work = logged_work(folder / "log")
    work.run(work.load(), folder / "run", 0, 1)
    return results(folder / "run")


def nothing_left(temporary: Path) -> None:
    """Wait until all CPUs are free again, and nothing lies in the nodes' temporary directory."""
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    wait_for(lambda: not list(temporary.glob(f"{ray_worker.SCRATCH}*")))


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_every_analysis_gives_the_bytes_of_one_process(
    name: str, cluster: Cluster, temporary: Path, tmp_path: Path
) -> None:
    work, told, plans = WORKS[name](), list[tuple[int, int]](), list[tuple[Any, Any]]()
    alone = work.run(work.load(), tmp_path / "alone", 0, 1)
    found = run_on_ray(
        WORKS[name](),
        tmp_path / "run",
        n_tasks=N_TASKS,
        on_ready=lambda *ready: plans.append(ready),
        on_progress=lambda *at: told.append(at),
    )
    told_once = [("memory: model", name not in ("activations", "heads"))]
    assert [(plan.line()[:13], need is None) for plan, need in plans] == told_once
    assert results(tmp_path / "run") == results(tmp_path / "alone")
    assert type(found) is type(alone)
    size = work.tokenized(work.load()).size
    assert told == sorted(told) and told[-1] == (size, size) and len(set(told)) == len(told)
    nothing_left(temporary)


@pytest.mark.slow
def test_room_for_all_tasks_is_asked_for_before_the_first(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=1)  # of the driver; the workers have room
    monkeypatch.setattr(cached_activations_settings.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PyengineError, match=f"{tmp_path / 'run'} would need"):
        run_on_ray(WORKS["activations"](), tmp_path / "run", n_tasks=N_TASKS)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_complete_run_is_opened(cluster: Cluster, tmp_path: Path) -> None:
    work, run = WORKS["extract"](), tmp_path / "run"
    alone = work.run(work.load(), run, 0, 1)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = run_on_ray(work, run, n_tasks=N_TASKS)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    mine, theirs = found["hook_embed"][0], alone["hook_embed"][0]
    assert type(mine) is type(theirs) and torch.equal(mine.sums, theirs.sums)


@pytest.mark.slow
def test_killed_workers_cost_no_bits(
    cluster: Cluster, temporary: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    log, run = tmp_path / "log", tmp_path / "run"

    def kill() -> None:
        dice, killed = random.Random(0), list[int]()
        while len(killed) < 3:
            wait_for(lambda: len(processes(log)) > len(killed))
            time.sleep(dice.uniform(0, 0.5))  # somewhere between its beginning and where it waits
            killed.append(pid := processes(log)[len(killed)])
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    run_on_ray(logged_work(log, hold="first three"), run, n_tasks=7)
    killer.join()
    assert results(run) == expected
    assert n_lost(run) >= 3
    nothing_left(temporary)


@pytest.mark.slow
def test_a_node_that_joins_is_used_and_one_that_goes_costs_no_bits(
    cluster: Cluster, temporary: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    log, nodes = tmp_path / "log", list[Any]()

    def change(done: int, total: int) -> None:
        if not nodes:
            nodes.append(cluster.add_node(**NODE, resources={JOINED: 1}))
        elif len(nodes) == 1 and (tmp_path / JOINED).exists():
            nodes.append(None)
            cluster.remove_node(nodes[0], allow_graceful=False)

    run = tmp_path / "run"
    work = logged_work(log, hold="joined")
    run_on_ray(work, run, n_tasks=N_TASKS, on_progress=change)
    assert results(run) == expected
    assert len(nodes) == 2 and n_lost(run) >= 1
    nothing_left(temporary)


@pytest.mark.slow
def test_a_killed_driver_costs_only_unfinished_tasks(
    temporary: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    run, logs = tmp_path / "run", [tmp_path / "first", tmp_path / "second"]

    def start(log: Path, hold: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "import ray_helpers; ray_helpers.main()"]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        arguments = [*command, str(run), str(log), hold]
        return subprocess.Popen(arguments, text=True, **streams)

    child = start(logs[0], "last task")
    wait_for(lambda: len(tasks_done(run)) >= 2 or child.poll() is not None)
    child.kill()
    child.communicate()
    finished = tasks_done(run)
    assert child.returncode == -signal.SIGKILL and len(finished) < N_TASKS
    child = start(logs[1], "")
    said, _ = child.communicate(timeout=PATIENCE)
    assert (child.returncode, said) == (0, "")
    assert sorted(task for task, _ in begun(logs[1])) == sorted(set(range(N_TASKS)) - finished)
    assert results(run) == expected
    wait_for(lambda: not list(temporary.glob(f"{ray_worker.SCRATCH}*")))


@pytest.mark.slow
def test_what_stops_a_run_loses_nothing(
    cluster: Cluster,
    temporary: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, logs = tmp_path / "run", [tmp_path / "first", tmp_path / "second"]

    def interrupt(done: int, total: int) -> None:
        if begun(logs[0]):
            raise KeyboardInterrupt

    def go(log: Path, on_progress: Report | None = None, **settings: Any) -> None:
        work = logged_work(log, **settings)
        run_on_ray(work, run, n_tasks=N_TASKS, on_progress=on_progress)

    monkeypatch.setattr(ray_pool, "MAX_LOSSES", 1)
    with pytest.raises(KeyboardInterrupt):
        go(logs[0], interrupt, hold="last task")
    nothing_left(temporary)
    with pytest.raises(PyengineError, match=r"lost with task 4, 2 times; the last time: .*died"):
        go(logs[0], bad_task=4, end="kill")
    nothing_left(temporary)
    with pytest.raises(PyengineError, match=r"^task 4 is bad$"):
        go(logs[1], bad_task=4, end="refuse")
    with pytest.raises(PyengineError, match="begun with 5 tasks, not 7; give --tasks 5"):
        run_on_ray(logged_work(logs[1]), run, n_tasks=7)
    go(logs[1])
    assert results(run) == expected
    assert {task for task, _ in begun(logs[1])} == {4}
    nothing_left(temporary)


@pytest.mark.slow
def test_other_settings_are_refused_and_other_numerics_may_be_recorded(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    work = logged_work(log)
    for task in range(2):  # another scheduler began
        work.run(work.load(), run, task, N_TASKS)
        TaskFolder(run, N_TASKS).finish(task)

    def go(allow_mixed: bool = False, **settings: Any) -> Any:
        return run_on_ray(
            logged_work(log, **settings), run, n_tasks=N_TASKS, allow_mixed=allow_mixed
        )

    with monkeypatch.context() as other:
        other.setenv("PYENGINE_BACKEND", "reference")
        with pytest.raises(PyengineError, match=r"question.k: 5 != 6.*numerics.backend: null != "):
            go(k=6)
        with pytest.raises(PyengineError, match=r"^a worker failed: TypeError: task 4 is bad$"):
            go(allow_mixed=True, bad_task=4, end="fail")
        other.setattr(ray_pool, "MAX_LOSSES", 1)
        with pytest.raises(PyengineError, match=r"task 4, 2 times; the last time: task 4 is bad"):
            go(allow_mixed=True, bad_task=4, end="ill")
    assert go().manifest["result"]["exact"] is False
    assert [task for task, _ in begun(log)].count(0) == 1


class Foreign:
    """Something that only the driver can make."""

    def __reduce__(self) -> Any:
        return __import__, ("a_module_of_the_driver",)


@pytest.mark.slow
def test_a_module_that_a_node_lacks_is_named(cluster: Cluster, tmp_path: Path) -> None:
    store = tokenize(ray_helpers.corpus(), max_tokens=32)
    work = Work(pyengine.trigger_examples, Foreign(), store)
    with pytest.raises(PyengineError, match="No module named 'a_module_of_the_driver'; functions"):
        run_on_ray(work, tmp_path / "run")


@pytest.mark.gpu
@pytest.mark.slow
def test_workers_on_gpus_give_the_bits_of_one_process(temporary: Path, tmp_path: Path) -> None:
    work = ray_helpers.demo_work()
    work.run(work.load(device="cuda"), tmp_path / "alone", 0, 1)
    code = "import ray_helpers; ray_helpers.demo()"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    subprocess.run(command, env=environment, check=True)
    assert results(tmp_path / "run") == results(tmp_path / "alone")

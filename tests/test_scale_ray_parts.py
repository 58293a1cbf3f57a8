"""The parts of scale-out on Ray that need no cluster."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray
import ray_helpers
import torch
from ray_helpers import N_TASKS, logged_work

import pyengine
from pyengine.errors import PyengineError
from pyengine.manifest import read_manifest
from pyengine.scale import on_ray, ray_pool, ray_worker
from pyengine.scale.collected import Collected
from pyengine.scale.on_ray import run_on_ray
from pyengine.scale.work import Work


def test_a_model_that_a_node_lacks_is_named() -> None:
    worker = ray_worker.Worker([], ray_worker.Place("cpu", 1, None, "."), "name", None)
    worker._work = Work(pyengine.trigger_examples, "no-such-model", ray_helpers.corpus())
    with pytest.raises(PyengineError, match=r"cannot load model 'no-such-model'.*on every node"):
        worker._load()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_where_nobody_listens_is_named(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(PyengineError, match=f"cannot connect to a Ray cluster at '{address}'"):
        run_on_ray(logged_work(tmp_path / "log"), tmp_path / "run", address=address)


@pytest.mark.parametrize(
    ("found", "named", "asked"),
    [(True, False, ["auto"]), (False, False, ["auto", "local"]), (False, True, ["auto"])],
)
def test_any_cluster_is_that_of_this_machine_or_a_local_one(
    found: bool, named: bool, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def init(address: str, **options: Any) -> None:
        tried.append(address)
        assert ("include_dashboard" in options) == (address == "local")
        if address == "auto" and not found:
            raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with contextlib.ExitStack() as stack:
        if named:
            monkeypatch.setenv("RAY_ADDRESS", "head:6379")
            stack.enter_context(pytest.raises(PyengineError, match="cluster at 'any': Could not"))
        stack.enter_context(on_ray.connected("any"))
    assert tried == asked


def test_settings_are_refused_before_ray_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *arguments, **options: started.append(arguments))
    work = Work(pyengine.trigger_examples, ray_helpers.gpt2(), ray_helpers.corpus(), (0,))
    tokenised: list[int] = []
    with pytest.raises(PyengineError, match="k must be from 1 to 1024, got 0"):
        run_on_ray(
            work, tmp_path / "run", address="local", on_tokenized=lambda *at: tokenised.append(1)
        )
    assert not started and not tokenised


def test_a_run_has_one_driver(tmp_path: Path) -> None:
    run, work = tmp_path / "run", logged_work(tmp_path / "log")
    work.run(work.load(), run, 0, N_TASKS)
    ready = ray_worker.Begun("a node", read_manifest(run), {})
    with contextlib.ExitStack() as held:
        drivers = [Collected(run, N_TASKS, [], allow_mixed=False, n_threads=1) for _ in range(2)]
        drivers[0].admit(ready, held)
        with pytest.raises(PyengineError, match="another process is working on shard 0/1"):
            drivers[1].admit(ready, held)


def test_scratch_of_dead_processes_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os; from pyengine.scale.ray_worker import scratch\n"
    code += "with scratch('dead') as run: (run / 'file').touch(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    with ray_worker.scratch("alive") as run:
        assert run.is_dir() and len(list(tmp_path.iterdir())) == 2
        ray_worker.sweep()
        assert [run.parent] == list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_what_a_worker_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def need(model: Any, device: str = "auto", **resources: float) -> Any:
        nodes = [{"Alive": True, "Resources": resources}, {"Alive": False, "Resources": {"GPU": 8}}]
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        work = Work(
            pyengine.trigger_examples, model, ray_helpers.corpus(), load_settings={"device": device}
        )
        return on_ray._need(work)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    gpu, cpu = ray_pool.Need("GPU", 1), ray_pool.Need("CPU", 2)
    assert need("demo", CPU=8, GPU=2) == (gpu, "cuda")
    assert need("demo", "cuda", GPU=2) == (gpu, "cuda")
    assert need("demo", "cpu", CPU=8, GPU=2) == (cpu, "cpu")
    assert need("demo", CPU=8) == (cpu, "cpu")
    assert need(ray_helpers.gpt2(), CPU=8, GPU=2) == (cpu, "auto")
    assert (cpu.options, gpu.options) == (
        {"num_cpus": 2, "num_gpus": 0},
        {"num_cpus": 0, "num_gpus": 1},
    )
    for wrong, device, resources in [
        ("the Ray cluster has no GPU", "cuda", {"CPU": 8}),
        ("'cuda:1' names one GPU", "cuda:1", {"GPU": 8}),
        ("no node of the Ray cluster has 2 CPUs", "auto", {"CPU": 1}),
    ]:
        with pytest.raises(PyengineError, match=wrong):
            need("demo", device, **resources)

"""Probes by many processes and on Ray: the bytes of one process."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from heads_runs_helpers import N_HEADS, QUICK, bank_for, table_bytes, two_tasks
from patience import in_processes

from pyengine.errors import PyengineError
from pyengine.heads import trials
from pyengine.heads.probe_heads import probe_heads

HERE = Path(__file__).parent


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_share_a_folder(tmp_path: Path) -> None:
    bank = bank_for(two_tasks(), tmp_path / "bank")
    in_processes(
        lambda i: probe_heads(bank, out=tmp_path / "many", settings=QUICK, shard=(i, 3)), 3
    )
    probe_heads(bank, out=tmp_path / "one", settings=QUICK)
    assert table_bytes(tmp_path / "many") == table_bytes(tmp_path / "one")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of this machine, which this process is connected to."""
    ray = pytest.importorskip("ray")
    with (
        # Where Ray keeps temporary files: its sockets need a short path.
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, HERE.parent))))
        ray.init(num_cpus=1, object_store_memory=80 << 20, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trials.GROUP_PARTS, "cpu", N_HEADS)
    bank = bank_for(two_tasks(), tmp_path / "bank")
    told = list[tuple[int, int]]()
    how: dict[str, Any] = {"settings": QUICK, "device": "cpu"}
    probe_heads(
        bank, out=tmp_path / "ray", ray="auto", on_progress=lambda *at: told.append(at), **how
    )
    probe_heads(bank, out=tmp_path / "one", **how)
    assert table_bytes(tmp_path / "ray") == table_bytes(tmp_path / "one")
    assert told[-1][0] == told[-1][1] and told == sorted(told)
    probe_heads(bank, out=tmp_path / "ray", ray="no address", **how)  # nothing is left to do


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_node_that_does_not_see_the_bank_is_named(tmp_path: Path) -> None:
    bank = bank_for(two_tasks(), tmp_path / "bank")
    assert [*bank.tasks] == ["three", "two"]  # read, here
    shutil.move(bank.folder, tmp_path / "elsewhere")
    with pytest.raises(PyengineError, match="every node must see the bank"):
        probe_heads(bank, out=tmp_path / "r", ray="auto", device="cpu")


def test_ray_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pyengine.heads.ray_jobs", raising=False)
    with pytest.raises(PyengineError, match="Ray is not installed: pip install"):
        probe_heads(bank_for(two_tasks()), out=tmp_path, ray="local")

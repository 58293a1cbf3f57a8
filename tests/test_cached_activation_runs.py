"""Cached activations in shards, interrupted, damaged: the same bytes, or one clear line."""

import shutil
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from cached_helpers import UNITS, cached, hashes
from patience import kill_often

from pyengine import PyengineError, open_run
from pyengine.analyses import cached_activations_pass
from pyengine.analyses.cached_activations_settings import DiskNeed
from pyengine.merge_runs import merge_runs


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_any_number_of_shards_gives_the_same_bytes(tmp_path: Path, family: str) -> None:
    names = ["*.mlp.hook_post", "*.hook_q"]
    whole = cached(tmp_path / "whole", family, names)
    wanted = hashes(tmp_path / "whole")
    assert len(wanted) == whole.n_blocks + 1 > 3
    for n_shards in (2, 3, 50):
        parts = [tmp_path / f"{n_shards}-{i}" for i in range(n_shards)]
        for index, part in enumerate(parts):
            cached(part, family, names, shard=(index, n_shards))
        merge_runs([*parts[::-1]], tmp_path / f"merged-{n_shards}")
        assert hashes(tmp_path / f"merged-{n_shards}") == wanted
    for index in (2, 0, 1):
        shard = cached(tmp_path / "shared", family, names, shard=(index, 3))
        first = int(shard.index["unit"][0].as_py())
        assert torch.equal(shard.unit(first)[shard.sites[0]], whole.unit(first)[shard.sites[0]])
    with pytest.raises(PyengineError, match="incomplete"):
        open_run(tmp_path / "shared")
    merged = merge_runs([tmp_path / "shared"], tmp_path / "shared")
    assert hashes(tmp_path / "shared") == wanted
    assert merged.index.equals(whole.index)


def test_an_interrupted_run_resumes_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path / "whole")
    compute, needs = cached_activations_pass.CachePass.run, list[DiskNeed]()

    def stopping(self: Any, block: int, on_batch: Any) -> Any:
        if block == 2:
            compute(self, block, on_batch)  # the block at work is lost
            raise KeyboardInterrupt
        return compute(self, block, on_batch)

    monkeypatch.setattr(cached_activations_pass.CachePass, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "run", on_need=needs.append)
    monkeypatch.setattr(cached_activations_pass.CachePass, "run", compute)
    first = tmp_path / "run" / "parts" / "000000.safetensors"
    before = first.stat().st_mtime_ns
    shutil.copytree(tmp_path / "run", tmp_path / "damaged")
    done: list[tuple[int, int]] = []
    cached(tmp_path / "run", on_need=needs.append, on_progress=lambda *counts: done.append(counts))
    assert hashes(tmp_path / "run") == hashes(tmp_path / "whole")
    final = tmp_path / "run" / "activations" / "000000.safetensors"
    assert final.stat().st_mtime_ns == before
    assert 0 < done[0][0] < done[-1][0] == done[-1][1] == sum(map(len, UNITS))
    assert needs[0].left == needs[0].n_bytes > needs[1].left > 0

    part = tmp_path / "damaged" / "parts" / "000001.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(PyengineError, match=r"000001\.safetensors is damaged"):
        cached(tmp_path / "damaged")
    part.unlink()
    cached(tmp_path / "damaged")
    assert hashes(tmp_path / "damaged") == hashes(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    cached(tmp_path / "whole")
    run = tmp_path / "run"
    slow: dict[str, Any] = {"on_progress": lambda *_: time.sleep(0.02)}
    kill_often(lambda: cached(run, **slow), run, "parts/*.json", kills=8)
    cached(run)
    assert hashes(run) == hashes(tmp_path / "whole")


def test_the_order_of_the_batches_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path / "whole", "t5")
    forward = cached_activations_pass.model_batches
    monkeypatch.setattr(
        cached_activations_pass,
        "model_batches",
        lambda *args, **more: reversed(list(forward(*args, **more))),
    )
    cached(tmp_path / "run", "t5")
    assert hashes(tmp_path / "run") == hashes(tmp_path / "whole")


def test_memory_that_runs_out_halves_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cached(tmp_path / "whole")
    run = cached_activations_pass.SiteRows.run

    def scarce(self: Any, batch: Any, decoder: Any, take: Any) -> None:
        if len(batch.units) > 2:
            raise torch.OutOfMemoryError("no memory")
        run(self, batch, decoder, take)

    monkeypatch.setattr(cached_activations_pass.SiteRows, "run", scarce)
    found = cached(tmp_path / "run")
    assert whole.record["exact"] and not found.record["exact"]
    for (_, mine), (_, theirs) in zip(found, whole, strict=True):
        for name, values in mine.items():
            torch.testing.assert_close(values, theirs[name], atol=1e-5, rtol=1e-5)


def test_the_need_of_room_is_exact_and_too_little_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs: list[DiskNeed] = []
    found = cached(tmp_path / "run", names=["*.mlp.hook_post", "*.hook_q"], on_need=needs.append)
    n_bytes = sum(values.nbytes for _, tensors in found for values in tensors.values())
    assert needs[0].n_bytes == needs[0].left == n_bytes
    usage = namedtuple("usage", "total used free")
    room = [n_bytes - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, room[0]))
    with pytest.raises(PyengineError, match=r"file system has .* left; take fewer .*--max-units"):
        cached(tmp_path / "full", names=["*.mlp.hook_post", "*.hook_q"])
    assert not (tmp_path / "full").exists()
    room[0] += 1
    cached(tmp_path / "full", names=["*.mlp.hook_post", "*.hook_q"])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    cached(tmp_path / "run")
    path = tmp_path / "run" / "activations" / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(PyengineError, match=r"000001\.safetensors is damaged"):
        open_run(tmp_path / "run")
    for index in range(2):
        cached(tmp_path / str(index), shard=(index, 2))
    part = next((tmp_path / "1" / "parts").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(PyengineError, match="is damaged"):
        merge_runs([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    cached(tmp_path / "run", shard=(0, 2))
    with pytest.raises(PyengineError, match=r"question\.sites"):
        cached(tmp_path / "run", names="hook_embed")
    with pytest.raises(PyengineError, match=r"question\.dtypes"):
        cached(tmp_path / "run", save_dtype="float16")
    with pytest.raises(PyengineError, match="unknown save_dtype 'int8'"):
        cached(tmp_path / "run", save_dtype="int8")
    with pytest.raises(PyengineError, match="block_tokens must be"):
        cached(tmp_path / "run", block_tokens=0)

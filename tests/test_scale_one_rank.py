"""What a rank does, seen from inside: one rank in this process, no torchrun."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rank_helpers import contents, one_rank
from tiny_models import tiny_model

import pyengine
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.scale import rank_group, ranks
from pyengine.scale.ranks import run_on_ranks
from pyengine.scale.tasks import TaskFolder
from pyengine.scale.work import Work

UNITS = [[1 + (7 * i + j) % 90 for j in range(1 + i % 9)] for i in range(70)]


def small_work(**settings: Any) -> Work:
    own = {"k": 3, "batch_tokens": 40, "block_tokens": 20, **settings}
    model = (tiny_model("gpt2"), None)
    return Work(pyengine.trigger_examples, model, Corpus.from_token_ids(UNITS), settings=own)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    one_rank(monkeypatch)


@pytest.mark.usefixtures("alone")
def test_one_rank_takes_up_and_opens(tmp_path: Path) -> None:
    whole = small_work().whole(pyengine.load((tiny_model("gpt2"), None)), tmp_path / "whole")
    done: list[int] = []

    def counted(*arguments: Any, shard: tuple[int, int], **settings: Any) -> Any:
        if shard[1] > 1:
            done.append(shard[0])
            if len(done) == 3:
                raise KeyboardInterrupt
        return pyengine.trigger_examples(*arguments, shard=shard, **settings)

    work = small_work()
    work = Work(counted, work.model, work.corpus, settings=work.settings)
    seen: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        run_on_ranks(work, tmp_path / "ranks", n_tasks=5)
    assert not dist.is_initialized()
    run_on_ranks(work, tmp_path / "ranks", n_tasks=5, on_progress=lambda *at: seen.append(at))
    assert done == [0, 1, 2, 2, 3, 4]
    assert seen == sorted(seen)
    assert (
        whole.record["n_tokens"] * 2 // 5 < seen[0][0]
        and seen[-1] == (whole.record["n_tokens"],) * 2
    )
    assert contents(tmp_path / "ranks") == contents(tmp_path / "whole")
    found = run_on_ranks(work, tmp_path / "ranks", n_tasks=7)  # complete: opened
    assert torch.equal(torch.as_tensor(found.units), torch.as_tensor(whole.units))
    assert done == [0, 1, 2, 2, 3, 4]


@pytest.mark.usefixtures("alone")
def test_shards_of_another_way_do_not_disturb(tmp_path: Path) -> None:
    model = pyengine.load((tiny_model("gpt2"), None))
    small_work().whole(model, tmp_path / "whole")
    small_work().run(model, tmp_path / "ranks", 1, 2)
    run_on_ranks(small_work(), tmp_path / "ranks", n_tasks=3)
    assert contents(tmp_path / "ranks") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("alone")
def test_what_mixed_workers_began_is_not_bit_exact(tmp_path: Path) -> None:
    model = pyengine.load((tiny_model("gpt2"), None))
    for task, mixed in enumerate((False, True)):
        small_work().run(model, tmp_path / "run", task, 3)
        TaskFolder(tmp_path / "run", 3).finish(task, mixed=mixed)
    found = run_on_ranks(small_work(), tmp_path / "run", n_tasks=3)
    assert found.record["exact"] is False


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("settings", "n_tasks", "words"),
    [
        ({"k": 4}, 4, "made with other settings (question.k: 3 != 4)"),
        ({}, 5, "with 4 tasks, not 5"),
    ],
)
def test_what_was_begun_otherwise_is_refused(
    tmp_path: Path, settings: dict[str, Any], n_tasks: int, words: str
) -> None:
    model = pyengine.load((tiny_model("gpt2"), None))
    small_work().run(model, tmp_path / "run", 0, 4)
    TaskFolder(tmp_path / "run", 4).finish(0)
    with pytest.raises(PyengineError, match=re.escape(words)):
        run_on_ranks(small_work(**settings), tmp_path / "run", n_tasks=n_tasks)
    assert not dist.is_initialized()


@pytest.mark.usefixtures("alone")
def test_a_process_group_of_the_callers_is_left_alone(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(PyengineError, match="destroy_process_group"):
            run_on_ranks(small_work(), tmp_path / "run")
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_a_store_that_has_gone_is_one_line() -> None:
    store = dist.TCPStore("localhost", 0, 1, is_master=True)
    client = dist.TCPStore("localhost", store.port, 1, is_master=False)
    them = rank_group.Ranks(client, 1, 2)
    them.tell("here")
    del store
    with pytest.raises(PyengineError, match=r"another rank has stopped .*; run the same command"):
        for _ in range(3):  # the first may still be sent
            them.add("n", 1)


@pytest.mark.parametrize(
    ("asked", "gpus", "local", "expected"),
    [
        ("auto", 0, 3, "auto"),
        ("cpu", 2, 3, "cpu"),
        ("auto", 2, 1, "cuda:1"),
        ("cuda", 2, 0, "cuda:0"),
    ],
)
def test_every_rank_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, local: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert ranks._own_device(asked, local) == expected


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(PyengineError, match="torch sees 2; use --nproc-per-node 2"):
        ranks._own_device("auto", 2)

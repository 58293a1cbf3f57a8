"""What a rank does, seen from inside: one rank in this process, no torchrun."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rank_helpers import contents, one_rank
from tiny_models import tiny_model

import pyengine
from pyengine.analyses import cached_activations_settings
from pyengine.analyses.cached_activations_settings import DiskNeed
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.memory_plan import MemoryPlan
from pyengine.parts import find_parts
from pyengine.scale import rank_group
from pyengine.scale.collected import Collected
from pyengine.scale.rank_gpus import own_device, tell_gpu
from pyengine.scale.ranks import run_on_ranks
from pyengine.scale.schedule import Schedule
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
        seen[0][0] == whole.record["n_tokens"] * 2 // 5
        and seen[-1] == (whole.record["n_tokens"],) * 2
    )
    assert contents(tmp_path / "ranks") == contents(tmp_path / "whole")
    found = run_on_ranks(work, tmp_path / "ranks", n_tasks=7)  # complete: opened
    assert torch.equal(torch.as_tensor(found.units), torch.as_tensor(whole.units))
    assert done == [0, 1, 2, 2, 3, 4]


def kept(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("shard", "words"),
    [((0, 1), "was begun by one process; leave torchrun"), ((1, 2), "was begun with 2 shards; ")],
)
def test_what_was_begun_without_ranks_is_kept(
    tmp_path: Path, shard: tuple[int, int], words: str
) -> None:
    run = tmp_path / "run"
    interrupt(run, shard)
    before = kept(run)
    with pytest.raises(PyengineError, match=words):
        run_on_ranks(small_work(), run, n_tasks=3)
    with pytest.raises(PyengineError, match=words):
        Collected(run, 3, [], allow_mixed=False, n_threads=1)
    assert kept(run) == before


def interrupt(run: Path, shard: tuple[int, int]) -> None:
    """Leave a checkpoint of an unfinished shard."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    work = small_work(checkpoint_blocks=1)
    with pytest.raises(KeyboardInterrupt):
        work.whole(pyengine.load(work.model), run, shard=shard, on_progress=stop)
    assert [path.suffix for path in (run / "shards").iterdir()].count(".safetensors") == 1


@pytest.mark.parametrize("shard", [(0, 1), (1, 4)])
@pytest.mark.parametrize("n_done", [0, 1])
def test_what_ranks_began_is_not_begun_again_alone(
    tmp_path: Path, shard: tuple[int, int], n_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = tmp_path / "run", list[int]()

    def stop(done: int, total: int) -> None:
        told.append(done)
        if len(TaskFolder(run, 4).done()) == n_done and len(told) > 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as ranks:
        one_rank(ranks)
        with pytest.raises(KeyboardInterrupt):
            run_on_ranks(small_work(), run, n_tasks=4, on_progress=stop)
    before = kept(run)
    words = "was begun with 4 tasks; use torchrun, or --ray, with --tasks 4, or another directory"
    with pytest.raises(PyengineError, match=words):
        Schedule(shard).carry_out(small_work(), run)
    assert kept(run) == before


def test_ranks_that_did_nothing_leave_the_run_to_anybody(tmp_path: Path) -> None:
    TaskFolder(tmp_path / "run", 4).begin()
    for _ in range(2):
        Schedule((1, 4)).carry_out(small_work(), tmp_path / "run")
    assert not (tmp_path / "run" / "tasks").exists()


@pytest.mark.parametrize(
    ("begun", "shard", "words"),
    [
        ((1, 4), (0, 1), "was begun with 4 shards; take it up with as many"),
        ((1, 4), (1, 3), "was begun with 4 shards; take it up with as many"),
        ((0, 1), (1, 3), "was begun by one process; leave torchrun, --ray and --shard out"),
    ],
)
def test_shards_are_taken_up_with_their_number(
    tmp_path: Path, begun: tuple[int, int], shard: tuple[int, int], words: str
) -> None:
    run = tmp_path / "run"
    interrupt(run, begun)
    with pytest.raises(PyengineError, match=words):
        Schedule(shard).carry_out(small_work(checkpoint_blocks=1), run)
    Schedule(begun).carry_out(small_work(checkpoint_blocks=1), run)


@pytest.mark.usefixtures("alone")
def test_room_for_all_tasks_is_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(
        pyengine.cache_activations,
        (tiny_model("gpt2"), None),
        Corpus.from_token_ids(UNITS),
        (["blocks.1.mlp.hook_post"],),
        {"batch_tokens": 40, "block_tokens": 20},
    )
    run, n_tokens, told = tmp_path / "run", sum(map(len, UNITS)), list[DiskNeed]()

    def ready(plan: MemoryPlan, need: DiskNeed | None) -> None:
        assert need is not None and plan.disk_bytes == need.n_bytes
        told.append(need)

    def go(free: int) -> None:
        usage = SimpleNamespace(free=free)
        with monkeypatch.context() as disk:
            disk.setattr(cached_activations_settings.shutil, "disk_usage", lambda path: usage)
            run_on_ranks(work, run, n_tasks=4, on_ready=ready)

    all_bytes = n_tokens * 4 * pyengine.load(work.model).d_ff
    with pytest.raises(PyengineError, match=r"would need .* more, and its file system has"):
        go(all_bytes - 1)
    assert not run.exists()
    work.run(pyengine.load(work.model), run, 0, 4)
    TaskFolder(run, 4).finish(0)
    left = told[0].left - sum(part.record["n_tokens"] for part in find_parts(run)) * (
        all_bytes // n_tokens
    )
    assert 0 < left < all_bytes
    with pytest.raises(PyengineError, match=r"would need .* more"):
        go(left - 1)
    go(left)
    assert [(need.n_bytes, need.left) for need in told] == [
        (all_bytes, all_bytes),
        (all_bytes, left),
        (all_bytes, left),
    ]
    go(0)  # complete: opened
    assert len(told) == 3


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
    see_gpus(monkeypatch, ["A", "B"][:gpus])
    assert own_device(asked, local_ranks(monkeypatch, dist.HashStore(), local, 4)) == expected


def test_a_named_gpu_or_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    see_gpus(monkeypatch, ["A", "B"])
    with pytest.raises(PyengineError, match="device 'cuda:1' names one GPU, but every rank takes"):
        own_device("cuda:1", local_ranks(monkeypatch, dist.HashStore(), 1, 2))
    with pytest.raises(PyengineError, match="torch sees 2; use --nproc-per-node 2"):
        own_device("auto", local_ranks(monkeypatch, dist.HashStore(), 2, 3))


def see_gpus(monkeypatch: pytest.MonkeyPatch, uuids: list[str]) -> None:
    def properties(index: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=uuids[index])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(uuids))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


def local_ranks(
    monkeypatch: pytest.MonkeyPatch, store: dist.Store, local: int, n_local: int
) -> rank_group.Ranks:
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n_local))
    return rank_group.Ranks(store, local, n_local)


@pytest.mark.parametrize(
    ("uuids", "devices"), [("AB", ["cuda:0", "cuda:0"]), ("AA", ["cuda:0", None])]
)
def test_ranks_that_see_one_gpu_each(
    monkeypatch: pytest.MonkeyPatch, uuids: str, devices: list[str | None]
) -> None:
    store = dist.HashStore()
    both = [local_ranks(monkeypatch, store, local, 2) for local in range(2)]
    for one, uuid in zip(both, uuids, strict=True):
        see_gpus(monkeypatch, [uuid])
        tell_gpu(one)
    for one, expected in zip(both, devices, strict=True):
        if expected is not None:
            assert own_device("cuda", one) == expected
            continue
        with pytest.raises(PyengineError, match="rank 1 of this machine has no GPU of its own"):
            own_device("cuda", one)

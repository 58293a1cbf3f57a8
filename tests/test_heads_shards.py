"""Banks in shards, interrupted and by ranks: the same bytes, or one clear line."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heads_helpers import SMALL, bank_hashes, damage, extracted, small_tasks, split_task, tiny
from patience import kill_often
from rank_helpers import contents, one_rank
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import PyengineError, open_run
from pyengine.analyses.cached_activations_settings import DiskNeed
from pyengine.heads import extract_pass
from pyengine.heads.extract_pass import HeadPass
from pyengine.heads.sentences import Sentences
from pyengine.merge_runs import merge_runs
from pyengine.scale.work import TASK_POOLED_TOKENS, Work


def work(family: str = "gpt2", **settings: Any) -> Work:
    model = (tiny_model(family), word_tokenizer())
    return Work(pyengine.extract_heads, model, small_tasks(), settings={**SMALL, **settings})


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_any_number_of_shards_gives_the_same_bytes(tmp_path: Path, family: str) -> None:
    whole = extracted(tmp_path / "whole", family)
    wanted = bank_hashes(tmp_path / "whole")
    assert len(wanted) == len(whole.files) + 3 > 5
    for n_shards in (2, 3, 20):
        parts = [tmp_path / f"{n_shards}-{i}" for i in range(n_shards)]
        for index, part in enumerate(parts):
            extracted(part, family, shard=(index, n_shards))
        merged = merge_runs([*parts[::-1]], tmp_path / f"merged-{n_shards}")
        assert bank_hashes(tmp_path / f"merged-{n_shards}") == wanted
        assert merged.fingerprint == whole.fingerprint and merged.record == whole.record
    first = 0
    for index in range(3):
        shard = extracted(tmp_path / "shared", family, shard=(index, 3))
        mine = shard.vectors("head", 1)
        last = first + shard.n_sentences
        assert np.array_equal(mine, whole.vectors("head", 1)[first:last])
        first = last
    assert first == whole.n_sentences
    with pytest.raises(PyengineError, match="incomplete"):
        open_run(tmp_path / "shared")
    merge_runs([tmp_path / "shared"], tmp_path / "shared")
    assert bank_hashes(tmp_path / "shared") == wanted


def test_shards_must_be_of_one_run_and_all_there(tmp_path: Path) -> None:
    extracted(tmp_path / "0", shard=(0, 3))
    extracted(tmp_path / "2", shard=(2, 3))
    extracted(tmp_path / "other", shard=(1, 3), save_dtype="float16")
    with pytest.raises(PyengineError, match="a shard is missing"):
        merge_runs([tmp_path / "0", tmp_path / "2"], tmp_path / "merged")
    with pytest.raises(PyengineError, match=r"question\.save_dtype"):
        merge_runs([tmp_path / "0", tmp_path / "other"], tmp_path / "merged")
    part = next((tmp_path / "2" / "parts").glob("*.safetensors"))
    extracted(tmp_path / "1", shard=(1, 3))
    damage(part)
    with pytest.raises(PyengineError, match="is damaged"):
        merge_runs([tmp_path / str(i) for i in range(3)], tmp_path / "merged")


def test_an_interrupted_run_resumes_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extracted(tmp_path / "whole")
    compute, needs = HeadPass.run, list[DiskNeed]()

    def stopping(self: Any, block: int, on_batch: Any) -> Any:
        found = compute(self, block, on_batch)
        if block == 2:  # the block at work is lost
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(HeadPass, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        extracted(tmp_path / "run", on_need=needs.append)
    monkeypatch.setattr(HeadPass, "run", compute)
    first = tmp_path / "run" / "parts" / "000000.safetensors"
    before = first.stat().st_mtime_ns
    shutil.copytree(tmp_path / "run", tmp_path / "damaged")
    done: list[tuple[int, int]] = []
    how: dict[str, Any] = {"on_need": needs.append, "on_progress": lambda *at: done.append(at)}
    extracted(tmp_path / "run", **how)
    assert bank_hashes(tmp_path / "run") == bank_hashes(tmp_path / "whole")
    final = tmp_path / "run" / "vectors" / "000000.safetensors"
    assert final.stat().st_mtime_ns == before
    assert 0 < done[0][0] < done[-1][0] == done[-1][1] == whole.record["n_tokens"]
    assert needs[0].left == needs[0].n_bytes > needs[1].left > 0

    part = tmp_path / "damaged" / "parts" / "000001.safetensors"
    damage(part)
    with pytest.raises(PyengineError, match=r"000001\.safetensors is damaged"):
        extracted(tmp_path / "damaged")
    part.unlink()
    extracted(tmp_path / "damaged")
    assert bank_hashes(tmp_path / "damaged") == bank_hashes(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    extracted(tmp_path / "whole")
    run = tmp_path / "run"
    model = tiny()
    # Before the fork: the threads of a tokenizer do not come along.
    how: dict[str, Any] = {"model": model, "tasks": Sentences.of(model, small_tasks())}
    slow: dict[str, Any] = {"on_progress": lambda *_: time.sleep(0.02)}
    kill_often(lambda: extracted(run, **how, **slow), run, "parts/*.json", kills=5)
    extracted(run, **how)
    assert bank_hashes(run) == bank_hashes(tmp_path / "whole")


def test_the_order_of_the_batches_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted(tmp_path / "whole", "t5")
    form = extract_pass.form_batches
    monkeypatch.setattr(
        extract_pass, "form_batches", lambda *args, **how: reversed([*form(*args, **how)])
    )
    extracted(tmp_path / "run", "t5")
    assert bank_hashes(tmp_path / "run") == bank_hashes(tmp_path / "whole")


def test_other_settings_and_tasks_are_refused(tmp_path: Path) -> None:
    extracted(tmp_path / "run", shard=(0, 2))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"locations": ("head",)}, r"question\.places"),
        ({"pooling": "mean"}, r"question\.pl"),
        ({"save_dtype": "float16"}, r"question\.save_dtype"),
        ({"activation": "model"}, r"numerics\.activation"),
        ({"tasks": small_tasks()[:1]}, r"corpus\.n_examples"),
        ({"tasks": [split_task("A", (20, 5, 5), seed=5)]}, r"corpus\.sha256"),
        ({"model": tiny("gpt2", seed=1)}, r"model\.sha256"),
    ]
    for more, what in cases:
        with pytest.raises(PyengineError, match=what):
            extracted(tmp_path / "run", **more)


def test_a_complete_bank_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extracted(tmp_path / "run")
    monkeypatch.setattr(HeadPass, "run", lambda *_: pytest.fail("it was computed again"))
    again = extracted(tmp_path / "run")
    assert again.fingerprint == whole.fingerprint and again.record == whole.record


def test_work_is_tokenised_once_and_cut_by_its_tokens(tmp_path: Path) -> None:
    given = work()
    model = given.load()
    ready = given.tokenized(model)
    assert given.is_text and not ready.is_text and ready.checked(model) is ready
    assert isinstance(ready.corpus, Sentences) and ready.size == ready.corpus.n_tokens
    assert ready.n_tasks("cpu") == 2 and 2 * TASK_POOLED_TOKENS["cpu"] > ready.size
    found = ready.whole(model, tmp_path / "run")
    alone = extracted(tmp_path / "alone")
    assert found.fingerprint == alone.fingerprint
    assert bank_hashes(tmp_path / "run") == bank_hashes(tmp_path / "alone")


def test_pad_leaves_room_for_its_token_in_work_too(tmp_path: Path) -> None:
    """What is tokenised before the pooling is known would be too long by one."""
    long = work(pooling="pad")
    tasks = [split_task("long", (3, 2, 2), longest=80)]
    long = Work(long.function, long.model, tasks, (), long.settings)
    model = long.load()
    found = long.tokenized(model).whole(model, tmp_path / "run")
    assert found.manifest["corpus"]["n_truncated"] > 0


def test_ranks_share_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extracted(tmp_path / "whole", "bert")
    one_rank(monkeypatch)
    seen: list[tuple[int, int]] = []
    found = pyengine.scale_out(
        pyengine.extract_heads,
        work("bert").model,
        small_tasks(),
        out=tmp_path / "run",
        tasks=3,
        on_progress=lambda *at: seen.append(at),
        **SMALL,
    )
    assert seen[-1] == (found.record["n_tokens"],) * 2
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")

"""Run directories: the same bits for any shards, order or interruption; nothing is lost."""

import hashlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import VOCAB, tiny_model

import pyengine
from pyengine import Corpus, PyengineError, open_run
from pyengine.analyses.compare import compare
from pyengine.merge_runs import merge_runs
from pyengine.run import verify
from pyengine.shards import load_shard

SETTINGS: dict[str, Any] = {"k": 6, "batch_tokens": 48, "block_tokens": 60}


def corpus(n: int = 90, seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    return Corpus.from_token_ids(
        [rng.integers(1, VOCAB, rng.integers(1, 14)).tolist() for _ in range(n)]
    )


def search(out: Path | None, family: str = "gpt2", **more: Any) -> pyengine.TriggerExamples:
    model = pyengine.load((tiny_model(family), None))
    return pyengine.trigger_examples(model, corpus(), out=out, **SETTINGS | more)


def result_hash(run: Path) -> str:
    return hashlib.sha256((run / "triggers.safetensors").read_bytes()).hexdigest()


def tensors_equal(a: pyengine.TriggerExamples, b: pyengine.TriggerExamples) -> bool:
    mine, theirs = a.tensors(), b.tensors()
    return mine.keys() == theirs.keys() and all(
        mine[name].tobytes() == theirs[name].tobytes() for name in mine
    )


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("sign", ["max", "both"])
@pytest.mark.parametrize("n_shards", [1, 2, 3, 7])
def test_any_number_of_shards_gives_the_same_bytes(
    tmp_path: Path, family: str, sign: str, n_shards: int
) -> None:
    search(tmp_path / "whole", family, sign=sign)
    parts = [tmp_path / f"part{i}" for i in range(n_shards)]
    if n_shards == 1:
        assert result_hash(tmp_path / "whole") == _again(tmp_path / "again", family, sign)
        return
    for index, part in enumerate(parts):
        search(part, family, sign=sign, shard=(index, n_shards))
    orders = [parts, parts[::-1], parts[1:] + parts[:1]]
    for number, order in enumerate(orders):
        merge_runs([*order], tmp_path / f"merged{number}")
        assert result_hash(tmp_path / f"merged{number}") == result_hash(tmp_path / "whole")


def _again(out: Path, family: str, sign: str) -> str:
    search(out, family, sign=sign)
    return result_hash(out)


def test_shards_may_share_one_directory(tmp_path: Path) -> None:
    whole = search(None)
    for index in (2, 0, 1):
        search(tmp_path / "run", shard=(index, 3))
    with pytest.raises(PyengineError, match="incomplete"):
        open_run(tmp_path / "run")
    assert tensors_equal(merge_runs([tmp_path / "run"], tmp_path / "run"), whole)
    assert verify(tmp_path / "run")["status"] == "complete"


def test_processes_may_begin_one_run_at_once(tmp_path: Path) -> None:
    model = pyengine.load((tiny_model("gpt2"), None))

    def shard(index: int) -> None:
        out = tmp_path / "run"
        pyengine.trigger_examples(model, corpus(), out=out, shard=(index, 8), **SETTINGS)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(shard, range(8)))
    merge_runs([tmp_path / "run"], tmp_path / "run")
    search(tmp_path / "whole")
    assert result_hash(tmp_path / "run") == result_hash(tmp_path / "whole")


def test_processes_may_open_one_complete_run_at_once(tmp_path: Path) -> None:
    model = pyengine.load((tiny_model("gpt2"), None))
    search(tmp_path / "run")

    def again(_: int) -> None:
        pyengine.trigger_examples(model, corpus(), out=tmp_path / "run", **SETTINGS)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(again, range(64)))


def test_more_shards_than_blocks_leaves_some_empty(tmp_path: Path) -> None:
    for index in range(40):
        search(tmp_path / "run", shard=(index, 40))
    assert tensors_equal(merge_runs([tmp_path / "run"], tmp_path / "run"), search(None))


class _Stop(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 2, 5, 9, 14])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, stop_after: int) -> None:
    search(tmp_path / "whole")
    seen = itertools.count(1)

    def stop(*_: Any) -> None:
        if next(seen) == stop_after:
            raise _Stop

    with pytest.raises(_Stop):
        search(tmp_path / "run", on_progress=stop)
    done = load_shard(next((tmp_path / "run" / "shards").glob("*.safetensors"))).record
    assert done["n_tokens"] > 0 and not done["complete"]
    segments: list[int] = []
    search(tmp_path / "run", on_progress=lambda now, _total: segments.append(now))
    assert segments[0] > done["n_tokens"], "the work before the interruption was done again"
    assert result_hash(tmp_path / "run") == result_hash(tmp_path / "whole")
    assert not (tmp_path / "run" / "shards").exists()


def test_a_complete_run_is_opened_and_not_repeated(tmp_path: Path) -> None:
    first = search(tmp_path / "run")
    touched: list[int] = []
    second = search(tmp_path / "run", on_progress=lambda *_: touched.append(1))
    assert not touched
    assert tensors_equal(first, second)


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".manifest.json.x1.tmp").touch()  # killed before the first manifest
    search(run)
    result = set(run.iterdir())
    (run / ".mine").touch()
    for name in (".manifest.json.x2.tmp", "shards/.0.x3.tmp", "shards/0-of-1.lock", "parts/0.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    search(run)
    assert set(run.iterdir()) == result | {run / ".mine"}


def test_save_and_open_round_trip(tmp_path: Path) -> None:
    found = search(None, sign="both")
    found.save(tmp_path / "run")
    opened = open_run(tmp_path / "run")
    assert tensors_equal(found, opened)
    assert opened.examples(1, 3) == found.examples(1, 3)
    assert opened.minima is not None
    assert opened.minima.examples(1, 3) == found.minima.examples(1, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 7}, "question.k: 6 != 7"),
        ({"per": "token"}, "question.per"),
        ({"value": "pre"}, "question.value"),
        ({"batch_tokens": 64}, "numerics.batch_tokens: 48 != 64"),
        ({"family": "gpt_neo"}, "model.family"),
    ],
)
def test_a_changed_setting_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    search(tmp_path / "run")
    before = result_hash(tmp_path / "run")
    with pytest.raises(PyengineError, match=named):
        search(tmp_path / "run", **change)
    assert result_hash(tmp_path / "run") == before


def test_a_changed_corpus_or_model_is_refused_by_name(tmp_path: Path) -> None:
    search(tmp_path / "run")
    model = pyengine.load((tiny_model("gpt2"), None))
    with pytest.raises(PyengineError, match=r"corpus\.sha256"):
        pyengine.trigger_examples(model, corpus(seed=1), out=tmp_path / "run", **SETTINGS)
    other = pyengine.load((tiny_model("gpt2", seed=5), None))
    with pytest.raises(PyengineError, match=r"model\.sha256"):
        pyengine.trigger_examples(other, corpus(), out=tmp_path / "run", **SETTINGS)


def test_merge_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    for index in range(3):
        search(tmp_path / f"part{index}", shard=(index, 3))
    parts = [tmp_path / f"part{index}" for index in range(3)]
    with pytest.raises(PyengineError, match="a shard is missing: no shard holds units"):
        merge_runs([parts[0], parts[2]], tmp_path / "merged")
    search(tmp_path / "other", k=5, shard=(2, 3))
    with pytest.raises(PyengineError, match=r"question\.k: 6 != 5"):
        merge_runs([parts[0], parts[1], tmp_path / "other"], tmp_path / "merged")
    search(tmp_path / "half", shard=(0, 2))
    with pytest.raises(PyengineError, match="two shards hold unit"):
        merge_runs([tmp_path / "half", *parts], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge_runs([*parts], tmp_path / "merged")


def test_mixed_numerics_need_to_be_allowed(tmp_path: Path) -> None:
    search(tmp_path / "a", shard=(0, 2))
    search(tmp_path / "b", shard=(1, 2), activation="model")
    with pytest.raises(PyengineError, match=r"numerics\.activation.*--allow-mixed"):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    merged = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged", allow_mixed=True)
    assert merged.record["exact"] is False


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_a_damaged_shard_is_refused(tmp_path: Path, damage: str) -> None:
    for index in range(2):
        search(tmp_path / "run", shard=(index, 2))
    file = sorted((tmp_path / "run" / "shards").glob("*.safetensors"))[0]
    _damage(file, damage)
    with pytest.raises(PyengineError, match=f"{file.name} is damaged") as caught:
        merge_runs([tmp_path / "run"], tmp_path / "run")
    assert "\n" not in str(caught.value)
    with pytest.raises(PyengineError, match="is damaged"):
        search(tmp_path / "run", shard=(0, 2))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
@pytest.mark.parametrize("name", ["triggers.safetensors", "manifest.json"])
def test_a_damaged_run_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    search(tmp_path / "run")
    _damage(tmp_path / "run" / name, damage)
    if (name, damage) == ("manifest.json", "flip"):
        return  # a flipped bit in a comment-free JSON may still be valid; its files are checked
    with pytest.raises(PyengineError, match=name):
        verify(tmp_path / "run")


def _damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "remove":
        file.unlink()
    elif how == "flip":
        data[len(data) * 2 // 3] ^= 1
        file.write_bytes(data)
    else:
        kept = {"truncate": bytes(data[: len(data) // 2]), "empty": b"", "text": b"hello"}[how]
        file.write_bytes(kept)


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PyengineError, match="not empty and not a run"):
        search(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(PyengineError, match="is a file"):
        search(tmp_path / "notes.txt")


def test_manifest_tells_what_was_run(tmp_path: Path) -> None:
    search(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["question"]["k"] == 6
    assert manifest["numerics"]["threads"] == torch.get_num_threads()
    assert manifest["numerics"]["versions"]["torch"] == torch.__version__
    assert manifest["corpus"]["n_units"] == 90
    assert manifest["result"]["n_nan"] == [0, 0, 0]
    assert "host" not in json.dumps(manifest)


def test_compare_measures_overlap_and_band(tmp_path: Path) -> None:
    fused, model = search(None), search(None, activation="model")
    for layer in compare(fused, fused):
        assert layer[2:] == (1.0, 0.0, 0.0, 0.0)
    for layer in compare(fused, model):
        assert layer.overlap > 0.99
        assert layer.band < 1e-5
    with pytest.raises(PyengineError, match="differ in k"):
        compare(fused, search(None, k=3))

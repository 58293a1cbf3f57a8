"""Shards merged as they come, and very many of them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_helpers import result_hashes, search
from tiny_models import VOCAB, tiny_model

import pyengine
from benchmarks import _machine, _merge_files, heap_merge
from pyengine import Corpus, PyengineError
from pyengine.extraction.states import merge_heap_arrays
from pyengine.manifest import read_manifest
from pyengine.merge_runs import RunMerge, merge_runs
from pyengine.shards import ShardMerge, load_shard, shard_path
from pyengine.units import UnitTable


def triggers(out: Path, **more: Any) -> None:
    rng = np.random.default_rng(0)
    units = [rng.integers(1, VOCAB, rng.integers(1, 14)).tolist() for _ in range(90)]
    model = pyengine.load((tiny_model("gpt2"), None))
    settings: dict[str, Any] = {"k": 6, "batch_tokens": 48, "block_tokens": 60}
    pyengine.trigger_examples(model, Corpus.from_token_ids(units), out=out, **settings | more)


def test_shards_are_merged_as_they_come(tmp_path: Path) -> None:
    triggers(tmp_path / "whole")
    run = tmp_path / "run"
    for task in (2, 0, 3, 1):
        triggers(run, shard=(task, 4))
    merge = RunMerge(read_manifest(run), n_threads=1)
    for task in (2, 0, 3):
        merge.add(run, shard_path(run, task, 4))
    with pytest.raises(PyengineError, match="a shard is missing"):
        merge.finish(run)
    assert not (run / "triggers.safetensors").exists()
    merge.add(run, shard_path(run, 1, 4))
    merge.finish(run, workers=3)
    result = "triggers.safetensors"
    assert (run / result).read_bytes() == (tmp_path / "whole" / result).read_bytes()
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["workers"] == 3 and len(provenance["merged_from"]) == 4


def test_a_shard_that_comes_twice_is_refused(tmp_path: Path) -> None:
    for task in (0, 1):
        triggers(tmp_path / "run", shard=(task, 2))
    merge = RunMerge(read_manifest(tmp_path / "run"))
    for task in (0, 1, 1):
        merge.add(tmp_path / "run", shard_path(tmp_path / "run", task, 2))
    with pytest.raises(PyengineError, match="was a shard given twice"):
        merge.finish(tmp_path / "run")


def test_parts_are_read_at_the_end(tmp_path: Path) -> None:
    search(tmp_path / "whole")
    for task in (1, 0):
        search(tmp_path / "run", shard=(task, 2))
    merge = RunMerge(read_manifest(tmp_path / "run"))
    for _ in range(2):
        merge.add(tmp_path / "run")
    merge.finish(tmp_path / "run")
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


def test_a_mixture_is_recorded(tmp_path: Path) -> None:
    triggers(tmp_path / "run", shard=(0, 2))
    triggers(tmp_path / "run", shard=(1, 2))
    merge = RunMerge(read_manifest(tmp_path / "run"))
    for task in (0, 1):
        merge.add(tmp_path / "run", shard_path(tmp_path / "run", task, 2))
    assert merge.finish(tmp_path / "run", mixed=True).record["exact"] is False


def test_what_has_no_shards_is_refused(tmp_path: Path) -> None:
    triggers(tmp_path / "run", shard=(0, 2))
    manifest = read_manifest(tmp_path / "run")
    with pytest.raises(PyengineError, match="a run of triggers has no reducers"):
        merge_runs([tmp_path / "run"], tmp_path / "merged", reducers=[object()])
    with pytest.raises(PyengineError, match="a run of agreement has no shards"):
        RunMerge({**manifest, "analysis": "agreement"})


def test_the_units_of_many_tables_are_collected_once() -> None:
    def table(*units: int) -> UnitTable:
        """Unit u holds the two tokens 2u and 2u + 1."""
        rows = np.array(units)
        tokens = np.stack([2 * rows, 2 * rows + 1], axis=1).ravel().astype(np.int32)
        return UnitTable(rows, 2 * rows, np.arange(len(rows) + 1) * 2, tokens)

    ids = np.array([[11, 0, -1], [2, 3, 11]])
    merged = UnitTable.merge([table(4, 5), table(0, 1), table(5), table(0, 1)], ids)
    assert merged.units.tolist() == [0, 1, 5]
    assert merged.first_ids.tolist() == [0, 2, 10]
    assert merged.tokens.tolist() == [0, 1, 2, 3, 10, 11]
    assert merged.offsets.tolist() == [0, 2, 4, 6]


def test_linked_shards_merge_to_what_the_files_hold(tmp_path: Path) -> None:
    _merge_files.write_shards(tmp_path, n_shards=9, n_files=3, n_keys=20, k=4)
    paths = sorted(tmp_path.glob("*-of-*"))
    assert len(paths) == 9

    def merged(paths: list[Path]) -> Any:
        merge = ShardMerge([partial(merge_heap_arrays, n_threads=1)])
        for path in paths:
            merge.add(path)
        return merge.whole(0)

    nine, three = merged(paths), merged(paths[:3])
    scores = np.concatenate([load_shard(p).states[0]["max.scores"] for p in paths[:3]], axis=1)
    best = -np.sort(-scores, axis=1)[:, :4]
    for found in (nine, three):
        assert np.array_equal(found.states[0]["max.scores"], best)
    assert np.array_equal(nine.ids, three.ids)
    assert np.array_equal(nine.table.tokens, three.table.tokens)
    assert (nine.table.locate(nine.ids)[0] >= 0).all()


def test_the_benchmark_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_machine, "RESULTS", tmp_path)
    sizes = ["--shards", "70", "--files", "2", "--keys", "30", "--k", "4"]
    heap_merge.main([*sizes, "--save", "toy"])
    assert "70 shard files" in capsys.readouterr().out
    figures = json.loads((tmp_path / "toy.json").read_text())["figures"]
    assert figures["state_bytes"] == 30 * 4 * 12
    assert figures["shards"] == 70 and figures["files"] == 2

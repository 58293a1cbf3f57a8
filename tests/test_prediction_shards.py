"""Predictions in shards: any number, order or place gives the same bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_helpers import MODES, result_hashes, search
from prediction_helpers import run_units as units
from tiny_models import tiny_model

import pyengine
from pyengine import Corpus, PyengineError, open_run
from pyengine.merge_runs import merge_runs
from pyengine.run import verify


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_any_number_of_shards_gives_the_same_bytes(tmp_path: Path, family: str, mode: str) -> None:
    search(tmp_path / "whole", family, **MODES[mode])
    wanted = result_hashes(tmp_path / "whole")
    assert len(wanted) == (3 if mode == "layer" else 2)
    search(tmp_path / "again", family, **MODES[mode])
    assert result_hashes(tmp_path / "again") == wanted
    for n_shards in (2, 3, 50):
        parts = [tmp_path / f"{n_shards}-{i}" for i in range(n_shards)]
        for index, part in enumerate(parts):
            search(part, family, shard=(index, n_shards), **MODES[mode])
        for number, order in enumerate((parts, parts[::-1], parts[1:] + parts[:1])):
            merge_runs([*order], tmp_path / f"merged-{n_shards}-{number}")
            assert result_hashes(tmp_path / f"merged-{n_shards}-{number}") == wanted
    assert verify(tmp_path / "merged-3-0")["files"].keys() == wanted.keys()


def test_shards_may_share_one_directory(tmp_path: Path) -> None:
    search(tmp_path / "whole")
    for index in (2, 0, 1):
        search(tmp_path / "run", shard=(index, 3))
    with pytest.raises(PyengineError, match="incomplete"):
        open_run(tmp_path / "run")
    merged = merge_runs([tmp_path / "run"], tmp_path / "run")
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")
    assert merged.table.equals(search(None).table)
    with pytest.raises(PyengineError, match="holds no shards; is it already merged"):
        merge_runs([tmp_path / "run"], tmp_path / "other")


def test_a_shard_holds_its_own_rows(tmp_path: Path) -> None:
    whole = search(None)
    shard = search(tmp_path / "run", shard=(1, 3))
    seen = np.array(shard.table["unit"])
    mine = np.isin(np.array(whole.table["unit"]), seen)
    assert 0 < mine.sum() < len(mine)
    assert shard.table.to_pylist() == whole.table.filter(mine).to_pylist()
    assert shard.output_dist is None


def test_a_different_order_of_the_batches_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyengine.analyses import prediction_pass

    search(tmp_path / "whole", "t5", **MODES["layer"])
    forward = prediction_pass.model_batches

    def backward(*args: Any, **more: Any) -> Iterator[Any]:
        return reversed(list(forward(*args, **more)))

    monkeypatch.setattr(prediction_pass, "model_batches", backward)
    search(tmp_path / "run", "t5", **MODES["layer"])
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


def test_a_run_resumes_as_shards(tmp_path: Path) -> None:
    """Blocks do not depend on the number of shards: what one has done is done for all."""
    search(tmp_path / "whole")
    search(tmp_path / "run", shard=(0, 2))
    before = (tmp_path / "run" / "parts" / "000001.json").stat().st_mtime_ns
    search(tmp_path / "run", shard=(0, 4))
    assert (tmp_path / "run" / "parts" / "000001.json").stat().st_mtime_ns == before
    search(tmp_path / "run")
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


def test_merge_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    parts = [tmp_path / f"part{index}" for index in range(3)]
    for index, part in enumerate(parts):
        search(part, shard=(index, 3))
    with pytest.raises(PyengineError, match="a shard is missing: no shard holds units"):
        merge_runs([parts[0], parts[2]], tmp_path / "merged")
    search(tmp_path / "other", head="embedding", shard=(2, 3))
    with pytest.raises(PyengineError, match=r"question\.head"):
        merge_runs([parts[0], parts[1], tmp_path / "other"], tmp_path / "merged")
    search(tmp_path / "half", shard=(0, 2))
    with pytest.raises(PyengineError, match="two shards hold unit"):
        merge_runs([tmp_path / "half", *parts], tmp_path / "merged")
    with pytest.raises(PyengineError, match=r"analysis: .*predictions.* != .*triggers"):
        model = pyengine.load((tiny_model("gpt2"), None))
        corpus = Corpus.from_token_ids(units())
        pyengine.trigger_examples(model, corpus, k=3, out=tmp_path / "triggers")
        merge_runs([parts[0], tmp_path / "triggers"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge_runs([parts[0], *parts], tmp_path / "merged")


def test_mixed_numerics_need_to_be_allowed(tmp_path: Path) -> None:
    search(tmp_path / "a", shard=(0, 2))
    search(tmp_path / "b", shard=(1, 2), activation="model")
    with pytest.raises(PyengineError, match="--allow-mixed accepts other numerics"):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    merged = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged", allow_mixed=True)
    assert merged.record["exact"] is False
    assert merged.table.num_rows == search(None).table.num_rows

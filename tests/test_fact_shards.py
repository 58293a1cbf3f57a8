"""Fact runs in shards: any number, order or place gives the same bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fact_helpers import cheap as cheap
from fact_helpers import find, result_hashes

from pyengine import PyengineError, open_run
from pyengine.merge_runs import merge_runs

TABLES = ("facts", "neurons", "effects", "skipped", "relations", "layers")

pytestmark = pytest.mark.usefixtures("cheap")


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_any_number_of_shards_gives_the_same_bytes(tmp_path: Path, family: str) -> None:
    find(tmp_path / "whole", family)
    wanted = result_hashes(tmp_path / "whole")
    find(tmp_path / "again", family)
    assert result_hashes(tmp_path / "again") == wanted
    for n_shards in (3, 7, 20):
        parts = [tmp_path / f"{n_shards}-{i}" for i in range(n_shards)]
        for index, part in enumerate(parts):
            find(part, family, shard=(index, n_shards))
        for number, order in enumerate((parts, parts[::-1])):
            merge_runs([*order], tmp_path / f"merged-{n_shards}-{number}")
            assert result_hashes(tmp_path / f"merged-{n_shards}-{number}") == wanted


def test_shards_by_relation_where_the_share_is_tuned(tmp_path: Path) -> None:
    how: dict[str, Any] = {"share": "auto", "block_facts": None}
    find(tmp_path / "whole", **how)
    for index in (1, 0, 2):
        find(tmp_path / "run", shard=(index, 3), **how)
    merge_runs([tmp_path / "run"], tmp_path / "run")
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


def test_a_shard_holds_its_own_facts(tmp_path: Path) -> None:
    whole, shard = find(), find(tmp_path / "run", shard=(1, 3))
    mine = np.isin(whole.facts["fact"], shard.facts["fact"])
    assert 0 < mine.sum() < len(mine)
    assert shard.facts.to_pylist() == whole.facts.filter(mine).to_pylist()
    mine = np.isin(whole.effects["fact"], shard.facts["fact"])
    assert shard.effects.to_pylist() == whole.effects.filter(mine).to_pylist()
    with pytest.raises(PyengineError, match="incomplete"):
        open_run(tmp_path / "run")


def test_a_run_resumes_as_shards(tmp_path: Path) -> None:
    """Blocks do not depend on the number of shards: what one has done is done for all."""
    find(tmp_path / "whole")
    find(tmp_path / "run", shard=(0, 2))
    before = (tmp_path / "run" / "parts" / "000001.json").stat().st_mtime_ns
    find(tmp_path / "run", shard=(0, 4))
    assert (tmp_path / "run" / "parts" / "000001.json").stat().st_mtime_ns == before
    find(tmp_path / "run")
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


def test_merge_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    parts = [tmp_path / f"part{index}" for index in range(3)]
    for index, part in enumerate(parts):
        find(part, shard=(index, 3))
    with pytest.raises(PyengineError, match="a shard is missing: no shard holds units"):
        merge_runs([parts[0], parts[2]], tmp_path / "merged")
    find(tmp_path / "other", factor=5.0, shard=(2, 3))
    with pytest.raises(PyengineError, match=r"question\.factor"):
        merge_runs([parts[0], parts[1], tmp_path / "other"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge_runs([parts[0], *parts], tmp_path / "merged")
    with pytest.raises(PyengineError, match="holds no shards; is it already merged"):
        merge_runs([tmp_path / "merged"], tmp_path / "more")


def test_mixed_numerics_need_to_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find(tmp_path / "a", shard=(0, 2))
    monkeypatch.setenv("PYENGINE_BACKEND", "reference")
    find(tmp_path / "b", shard=(1, 2))
    with pytest.raises(PyengineError, match="--allow-mixed accepts other numerics"):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    merged = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged", allow_mixed=True)
    assert merged.record["exact"] is False
    assert merged.facts.num_rows == find().facts.num_rows

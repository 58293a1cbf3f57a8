"""Fact runs: the same bytes after any interruption; nothing is lost."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fact_helpers import cheap as cheap
from fact_helpers import facts as some_facts
from fact_helpers import fake_attribute, find, result_hashes
from patience import kill_often

from pyengine import FactNeurons, PyengineError, open_run
from pyengine.analyses import fact_pass
from pyengine.analyses.fact_tables import FILES
from pyengine.run import verify

TABLES = ("facts", "neurons", "effects", "skipped", "relations", "layers")

pytestmark = pytest.mark.usefixtures("cheap")


class _Stop(Exception):
    pass


@pytest.mark.parametrize("error", [_Stop, KeyboardInterrupt])
@pytest.mark.parametrize("stop_after", [1, 2, 9, 30, 44])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    tmp_path: Path, stop_after: int, error: type[BaseException]
) -> None:
    find(tmp_path / "whole")
    calls: list[int] = []

    def stop(done: int, _total: int) -> None:
        calls.append(done)
        if len(calls) == stop_after:
            raise error

    with pytest.raises(error):
        find(tmp_path / "run", on_progress=stop)
    parts = [json.loads(file.read_text()) for file in (tmp_path / "run" / "parts").glob("*.json")]
    seen: list[tuple[int, int]] = []
    find(tmp_path / "run", on_progress=lambda *at: seen.append(at))
    assert seen[0][0] == sum(part["record"]["n_prompts"] for part in parts)
    assert (len(parts) > 0) == (stop_after > 2)
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


def test_progress_rises_to_the_number_of_prompts(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = find(tmp_path / "run", on_progress=lambda *at: seen.append(at))
    done = [at for at, _ in seen]
    assert done == sorted(done)
    assert {total for _, total in seen} == {done[-1]} == {found.record["n_prompts"]}
    memory: list[tuple[int, int]] = []
    find(on_progress=lambda *at: memory.append(at))
    assert memory == seen


def test_a_complete_run_is_opened_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find(tmp_path / "run")
    monkeypatch.delattr(fact_pass, "attribute")
    second = find(tmp_path / "run")
    for name in TABLES:
        assert getattr(first, name).equals(getattr(second, name))


def test_save_and_open_round_trip(tmp_path: Path) -> None:
    found = find()
    find(tmp_path / "run")
    found.save(tmp_path / "saved")
    opened = open_run(tmp_path / "saved")
    assert isinstance(opened, FactNeurons)
    for name in TABLES:
        mine, other = getattr(found, name), getattr(opened, name)
        assert mine.equals(other)
        assert mine.schema.equals(other.schema)
    assert opened.record == found.record
    opened.save(tmp_path / "again")
    hashes = [result_hashes(tmp_path / name) for name in ("run", "saved", "again")]
    assert hashes[0] == hashes[1] == hashes[2]


def test_what_a_killed_attempt_left_is_removed(tmp_path: Path) -> None:
    find(tmp_path / "run", shard=(0, 2))
    (tmp_path / "run" / ".effects.parquet.x7y8z9").write_bytes(b"half a table")
    find(tmp_path / "run")
    assert result_hashes(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "left"}, "question.method: .*adaptive.* != .*left"),
        ({"objective": "logit"}, "question.objective"),
        ({"value": "pre"}, "question.value"),
        ({"adaptive": 0.2}, "question.adaptive: 0.3 != 0.2"),
        ({"threshold": 0.2}, "question.threshold: null != 0.2"),
        ({"share": 0.3}, "question.share: 0.4 != 0.3"),
        ({"factor": 3.0}, "question.factor: 2.0 != 3.0"),
        ({"seed": 1}, "question.seed: 0 != 1"),
        ({"block_facts": 3}, "numerics.block_facts: 2 != 3"),
        ({"model_seed": 1}, r"model\.sha256"),
        ({"facts": some_facts(16)}, r"corpus\.n_facts: 17 != 16"),
        ({"facts": [*some_facts()[:-1], replace(some_facts()[-1], object="w3")]}, r"corpus\.sha"),
    ],
)
def test_a_changed_setting_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    find(tmp_path / "run")
    before = result_hashes(tmp_path / "run")
    with pytest.raises(PyengineError, match=named):
        find(tmp_path / "run", **change)
    assert result_hashes(tmp_path / "run") == before


def test_what_has_no_influence_is_no_difference(tmp_path: Path) -> None:
    find(tmp_path / "run", source="here")
    find(tmp_path / "run", source="there", steps=7)  # the adaptive rule takes no number of steps


@pytest.mark.parametrize("kind", [*FILES.values(), "json"])
def test_a_damaged_part_is_refused(tmp_path: Path, kind: str) -> None:
    find(tmp_path / "run", shard=(0, 2))
    file = tmp_path / "run" / "parts" / f"000001.{kind}"
    file.write_bytes(file.read_bytes()[:-9])
    for shard in ((0, 2), (0, 1)):
        with pytest.raises(PyengineError, match=f"{file.name} is damaged") as caught:
            find(tmp_path / "run", shard=shard)
        assert "\n" not in str(caught.value)
    file.unlink()
    find(tmp_path / "run")
    find(tmp_path / "whole")
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


@pytest.mark.parametrize("name", [*FILES.values(), "relations.parquet", "layers.parquet"])
def test_a_damaged_result_is_refused(tmp_path: Path, name: str) -> None:
    find(tmp_path / "run")
    data = bytearray((tmp_path / "run" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "run" / name).write_bytes(data)
    with pytest.raises(PyengineError, match=f"{name} is damaged"):
        open_run(tmp_path / "run")


def test_manifest_tells_what_was_run(tmp_path: Path) -> None:
    found = find(tmp_path / "run", source="some facts")
    manifest = verify(tmp_path / "run")
    assert manifest["analysis"] == "neurons"
    assert manifest["question"] == {
        "method": "adaptive",
        "objective": "probability",
        "value": "post",
        "conditioning": "teacher",
        "baseline": "zero",
        "tolerance": 0.001,
        "threshold": None,
        "adaptive": 0.3,
        "percentile": None,
        "share": 0.4,
        "factor": 2.0,
        "seed": 0,
    }
    assert manifest["numerics"]["block_facts"] == 2
    corpus = manifest["corpus"]
    assert (corpus["source"], corpus["n_facts"], corpus["n_relations"]) == ("some facts", 17, 3)
    assert manifest["result"] == found.record


def slowly(*args: Any) -> Any:
    time.sleep(0.02)
    return fake_attribute(*args)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tokenizer's threads are not there after a fork.
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    how: dict[str, Any] = {"facts": some_facts(40), "block_facts": 1}
    find(tmp_path / "whole", **how)
    monkeypatch.setattr(fact_pass, "attribute", slowly)
    run = tmp_path / "run"
    kill_often(lambda: find(run, **how), run, "parts/*.json", kills=8)
    find(run, **how)
    assert result_hashes(run) == result_hashes(tmp_path / "whole")

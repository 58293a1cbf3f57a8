"""What an extraction is said to hold and to take, against what it does."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from heads_helpers import SMALL, extracted, small_tasks, tiny
from live_tensors import Live
from rank_helpers import one_rank

import pyengine
from pyengine import PyengineError, estimates
from pyengine.analyses.cached_activations_settings import DiskNeed
from pyengine.estimates import estimate
from pyengine.heads.extract_pass import HeadPass
from pyengine.heads.extract_settings import ExtractSettings
from pyengine.heads.sentences import Sentences
from pyengine.memory_parts import tensor_bytes
from pyengine.memory_plan import MemoryPlan, memory_plan
from pyengine.models import Model
from pyengine.scale.ranks import run_on_ranks
from pyengine.scale.work import Work


def work_of(model: Model, **settings: Any) -> Work:
    return Work(pyengine.extract_heads, model, small_tasks(), settings=SMALL | settings)


def sizes(held: Any) -> dict[str, int]:
    return {each.what: each.n_bytes for each in held}


def plan_of(work: Work, model: Model) -> MemoryPlan:
    found = memory_plan(work, model)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("gpt2", {"pooling": "pad"}),
        ("gpt2", {"save_dtype": "float16", "pooling": "mean"}),
        ("bert", {"locations": ("neurons", "head")}),
        ("t5", {"locations": ("cross",)}),
        ("t5_gated", {"activation": "model", "pooling": "mean"}),
    ],
)
def test_the_plan_holds(tmp_path: Path, family: str, more: dict[str, Any]) -> None:
    model = tiny(family)
    work = work_of(model, **more)
    wide = plan_of(work, model)
    work = work.tokenized(model)
    plan = plan_of(work, model)
    device, host, disk = sizes(plan.device), sizes(plan.host), sizes(plan.disk)
    assert device["a batch"] < sizes(wide.device)["a batch"] and not wide.disk
    assert isinstance(work.corpus, Sentences)
    search = HeadPass(model, work.corpus, ExtractSettings.checked(model, **SMALL | more))
    blocks = list[int]()
    for block in range(len(search.boundaries) - 1):
        with Live() as live:
            found = search.run(block, lambda n_tokens: None)
        blocks.append(tensor_bytes(found.tensors))
        assert live.peak <= device["a block"] + device["a batch"]
    assert device["a block"] == host["its file"] == max(blocks)
    assert disk == {"vectors": sum(blocks)}


def test_on_a_gpu_a_block_is_in_both_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    work = work_of(model).tokenized(model)
    on_cpu = plan_of(work, model)
    monkeypatch.setattr(Model, "device", property(lambda self: SimpleNamespace(type="cuda")))
    on_gpu = plan_of(work, model)
    block = sizes(on_cpu.device)["a block"]
    assert sizes(on_gpu.device)["a block"] == block
    assert sizes(on_gpu.host) == {"its copy": block, "its file": block}


def test_an_estimate_counts_what_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "SAMPLE_SECONDS", 0.02)
    for family, more in (("gpt2", {"pooling": "pad"}), ("t5", {}), ("bert", {})):
        model = tiny(family)
        found = estimate(work_of(model, **more), model)
        bank = extracted(tmp_path / family, model=model, **more)
        provenance = json.loads((tmp_path / family / "provenance.json").read_text())
        assert (found.unit, found.function) == ("tokens", "extract_heads")
        assert (found.size, found.n_units) == (bank.record["n_tokens"], bank.n_sentences)
        assert found.cost == provenance["n_computed"]
        assert 0 < found.samples[0] < found.samples[1] == found.size
        assert 0 < found.seconds.low <= found.seconds.value and found.rate > 0
        assert found.plan is not None and found.disk == found.plan.disk_bytes
        kept = (bank.vectors(place.location, place.layer).nbytes for place in bank.places)
        assert found.disk == sum(kept)


def test_the_room_for_all_pieces_is_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_rank(monkeypatch)
    model, told = tiny(), list[DiskNeed]()
    usage, run = SimpleNamespace(free=0), tmp_path / "run"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    def ready(plan: MemoryPlan, need: DiskNeed | None) -> None:
        assert need is not None and plan.disk_bytes == need.n_bytes
        told.append(need)

    def go() -> Any:
        return run_on_ranks(work_of(model), run, n_tasks=3, on_ready=ready)

    with pytest.raises(PyengineError, match="take fewer tasks or locations"):
        go()
    assert not run.exists()
    usage.free = told[0].n_bytes
    bank = go()
    assert {(need.size, need.unit, need.left) for need in told} == {
        (bank.n_sentences, "sentences", told[0].n_bytes)
    }

"""Heads on CUDA: banks and probes are the CPU's within a band, repeat, and the loop never waits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heads_helpers import bank_hashes, extracted, tiny
from heads_probe_cases import drawn
from heads_runs_helpers import QUICK, bank_for, two_tasks
from tiny_models import EVERY, tiny_model, word_tokenizer

import pyengine
from pyengine.heads.bank import HeadBank
from pyengine.heads.extract_pass import HeadPass
from pyengine.heads.moments import moments_of
from pyengine.heads.places import LOCATIONS
from pyengine.heads.probe.protocols import probe_classes
from pyengine.heads.probe_heads import probe_heads
from pyengine.heads.screen import STRENGTHS, screen
from pyengine.heads.task import SPLIT
from pyengine.merge_runs import merge_runs

pytestmark = pytest.mark.gpu

POINTS = 2.0  # of accuracy: sums are rounded otherwise, and a look may turn out otherwise


def on_cuda(family: str) -> pyengine.Model:
    return pyengine.load((tiny_model(family).to("cuda"), word_tokenizer()))


def bank_on_cuda(out: Path, family: str, **more: Any) -> HeadBank:
    model = on_cuda(family)
    there = tuple(one for one in LOCATIONS if one != "cross" or model.family.encoder_decoder)
    return extracted(out, model=model, **{"locations": there} | more)


@pytest.mark.parametrize("pooling", ["auto", "mean"])
@pytest.mark.parametrize("family", EVERY)
def test_a_bank_is_that_of_the_cpu_within_a_band(tmp_path: Path, family: str, pooling: str) -> None:
    here = bank_on_cuda(tmp_path / "cuda", family, pooling=pooling)
    locations = tuple(dict.fromkeys(place.location for place in here.places))
    there = extracted(tmp_path / "cpu", model=tiny(family), locations=locations, pooling=pooling)
    assert here.texts() == there.texts() and here.fingerprint != there.fingerprint
    for place in there.places:
        mine, theirs = (bank.vectors(place.location, place.layer) for bank in (here, there))
        limit = 1e-4 * (1 + float(np.abs(theirs).max()))
        np.testing.assert_allclose(mine, theirs, atol=limit, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_bank_has_the_same_bytes_again_and_in_shards(tmp_path: Path, family: str) -> None:
    bank_on_cuda(tmp_path / "one", family)
    bank_on_cuda(tmp_path / "again", family)
    for index in range(2):
        bank_on_cuda(tmp_path / "run", family, shard=(index, 2))
    merge_runs([tmp_path / "run"], tmp_path / "run")
    wanted = bank_hashes(tmp_path / "one")
    assert bank_hashes(tmp_path / "again") == wanted == bank_hashes(tmp_path / "run")


@pytest.mark.parametrize("pooling", ["auto", "mean"])
@pytest.mark.parametrize("activation", ["fused", "model"])
@pytest.mark.parametrize("family", EVERY)
def test_no_batch_of_an_extraction_waits(
    tmp_path: Path, family: str, activation: str, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"activation": activation, "pooling": pooling}
    bank_on_cuda(tmp_path / "warm", family, **how)  # compiles the kernels
    run, n_calls = HeadPass._run_batch, 0

    def watched(self: HeadPass, *arguments: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        torch.cuda.set_sync_debug_mode("error")
        try:
            return run(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(HeadPass, "_run_batch", watched)
    bank_on_cuda(tmp_path / "run", family, **how)
    assert n_calls > 2


def test_probes_are_those_of_the_cpu() -> None:
    x, parts = drawn({"train": 300, "dev": 100, "test": 100}, n_heads=6, width=8, n_classes=3)
    here, there = (probe_classes(x, parts, 3, SPLIT, QUICK, one) for one in ("cuda", "cpu"))
    again = probe_classes(x, parts, 3, SPLIT, QUICK, "cuda")
    assert np.array_equal(here.predictions, again.predictions)
    for name in ("dev", "test"):
        mine, theirs = getattr(here, name), getattr(there, name)
        assert np.abs(mine - theirs).max() <= POINTS and (mine == theirs).mean() >= 0.5


@pytest.mark.parametrize("n_classes", [3, None])
def test_sums_are_those_of_the_cpu(n_classes: int | None) -> None:
    """Segments of float64, one of them empty: class 1 has no examples."""
    x, parts = drawn({"train": 3000}, n_heads=4, width=5, n_classes=3)
    rows, targets = parts["train"]
    targets = np.where(targets == 1, 2, targets)
    if n_classes is None:
        targets = targets.astype(np.float64)
    mine, again, theirs = (
        moments_of(x, rows, targets, n_classes, torch.device(one))
        for one in ("cuda", "cuda", "cpu")
    )
    for name in ("targets", "sums", "gram", "cross"):
        found = getattr(mine, name)
        assert found.dtype == torch.float64 and found.equal(getattr(again, name))
        torch.testing.assert_close(found.cpu(), getattr(theirs, name), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("method", [*STRENGTHS])
def test_a_screen_is_that_of_the_cpu(method: str) -> None:
    x, parts = drawn({"train": 300, "dev": 100, "test": 100}, n_heads=6, width=8, n_classes=3)
    here, there = (screen(x, parts, 3, SPLIT, method, device=one) for one in ("cuda", "cpu"))
    assert (here.predictions != there.predictions).mean() < 0.01
    assert np.abs(here.dev - there.dev).max() <= 1 and np.abs(here.test - there.test).max() <= 1


def test_a_bank_of_the_cpu_is_probed_on_a_gpu(tmp_path: Path) -> None:
    bank = bank_for(two_tasks(), tmp_path / "bank")
    found = {
        device: probe_heads(
            bank, out=tmp_path / device, device=device, settings=QUICK, locations=["head"]
        ).table.select(["task", "layer", "head", "majority", "n_test", "bank", "settings"])
        for device in ("cuda", "cpu")
    }
    assert found["cuda"].equals(found["cpu"]) and found["cpu"].num_rows == 12

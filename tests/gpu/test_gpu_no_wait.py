"""The host does not wait for the GPU inside the block loop: CUDA's own checks, and the profiler."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, VOCAB, tiny_model
from torch.profiler import ProfilerActivity, profile

import pyengine
from pyengine.engine import Pass

pytestmark = pytest.mark.gpu


def search(family: str, **settings: Any) -> None:
    chance = np.random.default_rng(0)
    corpus = pyengine.Corpus.from_token_ids(
        [chance.integers(1, VOCAB, chance.integers(2, 20)).tolist() for _ in range(400)]
    )
    model = pyengine.load((tiny_model(family).to("cuda"), None))
    options = {"k": 3, "batch_tokens": 128, "block_tokens": 10_000} | settings
    pyengine.trigger_examples(model, corpus, **options)


@pytest.mark.parametrize("activation", ["fused", "model"])
@pytest.mark.parametrize("per", ["unit", "token"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_operation_of_the_loop_waits(
    family: str, per: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold, n_calls = Pass._fold_once, 0
    search(family, per=per, activation=activation)  # compiles the kernels

    def watched(self: Pass, *args: Any) -> None:
        nonlocal n_calls
        torch.cuda.set_sync_debug_mode("error")
        try:
            fold(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        n_calls += 1

    monkeypatch.setattr(Pass, "_fold_once", watched)
    search(family, per=per, activation=activation)
    assert n_calls > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_profiler_sees_waits_only_between_segments(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold, seen = Pass._fold_once, []
    search(family)

    def watched(self: Pass, *args: Any) -> None:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            fold(self, *args)
            torch.cuda._sleep(1)  # the profiler has something to see
        seen.append([event.name for event in profiled.events()])

    monkeypatch.setattr(Pass, "_fold_once", watched)
    search(family)
    assert len(seen) > 1
    for names in seen:
        assert any(name.startswith("cudaLaunchKernel") for name in names)
        # Ending the profile waits for the device, but not for a stream.
        assert "cudaStreamSynchronize" not in names
        assert not any(name.startswith("Memcpy DtoH") for name in names)

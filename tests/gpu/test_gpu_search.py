"""Whole searches on CUDA: the same bits again, and the CPU's examples within a band."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, VOCAB, tiny_model

import pyengine
from pyengine.analyses.compare import compare
from pyengine.precision import precision

pytestmark = pytest.mark.gpu


def corpus(n: int = 300) -> pyengine.Corpus:
    rng = np.random.default_rng(0)
    return pyengine.Corpus.from_token_ids(
        [rng.integers(1, VOCAB, rng.integers(1, 20)).tolist() for _ in range(n)]
    )


def search(family: str, device: str, **settings: Any) -> pyengine.TriggerExamples:
    dtype = settings.pop("dtype", torch.float32)
    model = pyengine.load((tiny_model(family).to(device, dtype), None))
    options = {"k": 8, "batch_tokens": 256, "block_tokens": 1000} | settings
    return pyengine.trigger_examples(model, corpus(), **options)


def equal(a: pyengine.TriggerExamples, b: pyengine.TriggerExamples) -> bool:
    mine, theirs = a.tensors(), b.tensors()
    return all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)


@pytest.mark.parametrize("per", ["unit", "token"])
@pytest.mark.parametrize("value", ["post", "pre"])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_cpu_within_a_band(family: str, value: str, per: str) -> None:
    settings = {"value": value, "per": per, "sign": "both"}
    on_gpu, on_cpu = search(family, "cuda", **settings), search(family, "cpu", **settings)
    scale = float(on_cpu.scores.nan_to_num().abs().max())
    for layer in compare(on_gpu, on_cpu):
        assert layer.score_difference <= 1e-4 * scale
        assert layer.overlap > 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_search_gives_the_same_bits(family: str, dtype: torch.dtype) -> None:
    first = search(family, "cuda", dtype=dtype)
    assert equal(first, search(family, "cuda", dtype=dtype))
    assert torch.isfinite(first.scores[first.units >= 0]).all()


@pytest.mark.parametrize("n_shards", [2, 3])
def test_shards_give_the_same_bits(tmp_path: Any, n_shards: int) -> None:
    from pyengine.merge_runs import merge_runs

    for index in range(n_shards):
        search("gpt2", "cuda", out=tmp_path / "run", shard=(index, n_shards))
    assert equal(merge_runs([tmp_path / "run"], tmp_path / "run"), search("gpt2", "cuda"))


def test_large_k_takes_the_wide_merge() -> None:
    found, small = search("gpt2", "cuda", k=200), search("gpt2", "cuda", k=8)
    assert torch.equal(found.scores[..., :8], small.scores)
    assert torch.equal(found.units[..., :8], small.units)


def test_precision_settings_are_restored() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with precision("tf32"):
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before

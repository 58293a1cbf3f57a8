"""Extractions on CUDA: the same bits again and in shards, and the CPU's within a band."""

from pathlib import Path
from typing import Any

import pytest
import torch
from extract_cases import SMALL, Largest, UnitSums, random_units, same_bits
from tiny_models import tiny_model

import pyengine
from pyengine.corpus import Corpus
from pyengine.extraction.extract import extract
from pyengine.extraction.result import Extraction
from pyengine.merge_runs import merge_runs
from pyengine.reducers.moments import Moments
from pyengine.reducers.topk import StreamingTopK

pytestmark = pytest.mark.gpu

POST, STREAM = "{}blocks.1.mlp.hook_post", "{}blocks.1.hook_resid_post"


def run(family: str, device: str, dtype: torch.dtype = torch.float32, **more: Any) -> Extraction:
    model = pyengine.load((tiny_model(family).to(device, dtype), None))
    prefix = "decoder_" if family.startswith("t5") else ""
    reducers = {
        POST.format(prefix): [
            StreamingTopK(5, 37, sign="both"),
            StreamingTopK(5, 37, per="token", exclude=(3, 4, 5), skip_first=1),
            Moments(37, bins=6, range=(-1.0, 1.0)),
        ],
        STREAM.format(prefix): [Moments(20, skip_first=2), StreamingTopK(4, 20)],
    }
    corpus = Corpus.from_token_ids(random_units(200))
    return extract(model, corpus, reducers, **SMALL | {"batch_tokens": 256} | more)


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "t5_gated"])
def test_agrees_with_the_cpu_within_a_band(family: str) -> None:
    mine, theirs = run(family, "cuda").tensors(), run(family, "cpu").tensors()
    for name in theirs:
        if name.endswith((".scores", ".mean", ".min", ".max")):
            a, b = torch.from_numpy(mine[name]), torch.from_numpy(theirs[name])
            scale = float(b.nan_to_num().abs().max())
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * scale, equal_nan=True)
        if name.endswith(".count"):
            assert mine[name].tolist() == theirs[name].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_again_and_in_shards(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = run("gpt2", "cuda", dtype)
    assert same_bits(whole, run("gpt2", "cuda", dtype))
    for index in range(3):
        run("gpt2", "cuda", dtype, out=tmp_path / "run", shard=(index, 3))
    assert same_bits(merge_runs([tmp_path / "run"], tmp_path / "run"), whole)


def test_a_reducer_of_our_own_gets_tensors_of_the_device() -> None:
    model = pyengine.load((tiny_model("gpt2").to("cuda"), None))
    sums, largest = UnitSums(60, 37), Largest(37)
    sums.load_state_dict({name: tensor.cuda() for name, tensor in sums.state_dict().items()})
    largest.largest = largest.largest.cuda()
    corpus = Corpus.from_token_ids(random_units())
    site = POST.format("")
    found = extract(model, corpus, {site: [sums, largest, Moments(37)]}, **SMALL)[site]
    assert found[0].tokens.tolist() == [sum(unit) for unit in random_units()]
    assert found[1].largest.cpu().equal(found[2].max)

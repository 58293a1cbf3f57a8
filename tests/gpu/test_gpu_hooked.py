"""On a GPU: the sites of a pass are plain Hugging Face's, and a cache may live elsewhere."""

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

import pyengine
from benchmarks._accuracy_cells import DTYPES, PADDINGS, cell
from benchmarks.accuracy import MODELS, sentences, variants
from pyengine.loading import load

pytestmark = [pytest.mark.gpu, pytest.mark.identity]

ROWS = [(family, dtype, attention) for family in MODELS for dtype, attention in variants(family)]


@pytest.mark.parametrize(("family", "dtype", "attention"), ROWS)
def test_every_site_is_bit_equal_to_plain_hugging_face(
    family: str, dtype: str, attention: str
) -> None:
    model = load(MODELS[family], device="cuda", dtype=DTYPES[dtype], attn_implementation=attention)
    for padding in PADDINGS:
        found = cell(model, sentences(model, padding), padding)
        assert not {name: delta for name, delta in found.sites.items() if delta}, padding


def test_a_cache_is_kept_where_asked() -> None:
    model = pyengine.load(tiny_model("gpt2").cuda())
    ids = torch.randint(4, 90, (2, 7))
    logits, cache = pyengine.run_with_cache(model, ids, "blocks.*.mlp.hook_post", device="cpu")
    assert logits.is_cuda and all(not value.is_cuda for value in cache.values())
    again = pyengine.run_with_cache(model, ids.cuda(), "blocks.*.mlp.hook_post")[1]
    assert all(torch.equal(cache[name], value.cpu()) for name, value in again.items())


def test_extract_agrees_with_the_cpu(tmp_path: Path) -> None:
    hf = tiny_model("gpt2")
    corpus = pyengine.Corpus.from_token_ids(torch.randint(4, 90, (40, 20)).tolist())
    reducers = {"blocks.1.hook_resid_post": [pyengine.Moments(20), pyengine.StreamingTopK(3, 20)]}
    here = pyengine.extract(pyengine.load(hf), corpus, reducers)["blocks.1.hook_resid_post"]
    there = pyengine.extract(pyengine.load(hf.cuda()), corpus, reducers)["blocks.1.hook_resid_post"]
    assert torch.equal(here[0].count, there[0].count)
    assert torch.allclose(here[0].mean, there[0].mean, atol=1e-5)
    assert torch.allclose(here[1].scores, there[1].scores, atol=1e-4)

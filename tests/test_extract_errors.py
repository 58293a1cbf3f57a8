"""What extract refuses, each in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from extract_cases import Largest, extracted, random_units
from tiny_models import tiny_model
from torch import nn

import pyengine
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.extraction.extract import extract
from pyengine.reducers.moments import Moments
from pyengine.reducers.topk import StreamingTopK

SITE = "blocks.1.mlp.hook_post"


class _NoReducer:
    def update(self, *_: Any) -> None:
        pass


class _Numbers(Largest):
    def state_dict(self) -> dict[str, Any]:
        return {"largest": self.largest, "n": 3}


class _Half(Largest):
    def state_dict(self) -> dict[str, Any]:
        return {"largest": self.largest.bfloat16()}


@pytest.mark.parametrize(
    ("reducers", "message"),
    [
        ({}, "no reducers given"),
        ({"blocks.1.mlp.hook_pots": [Moments(37)]}, "did you mean blocks.1.mlp.hook_post"),
        ({SITE: [Moments(36)]}, "has 37 keys, the Moments given for it n_keys=36"),
        ({"blocks.*.mlp.hook_post": [StreamingTopK(3, 37)]}, "has 111 keys, the StreamingTopK"),
        ({SITE: Moments(37)}, "must be a list"),
        ({SITE: [Moments(37)], "h.1.mlp.act": [Moments(37)]}, "are the same: give one list"),
        ({(SITE, "h.1.mlp.act"): [Moments(74)]}, "names a site twice"),
        ({(): [Moments(37)]}, "a site is a name or a tuple of names"),
        ({1: [Moments(37)]}, "a site is a name or a tuple of names"),
        ({"unembed.hook_in": [Moments(20)]}, "unembed.hook_in lies in the output head"),
        ({"blocks.1.attn.hook_pattern": [Moments(4)]}, "attn_implementation='eager'"),
        ({SITE: [_NoReducer()]}, "_NoReducer is no reducer: it has no method merge"),
        ({SITE: [_Numbers(37)]}, "state 'n' of a reducer must be a tensor, got 3"),
        ({SITE: [_Half(37)]}, "is bfloat16"),
    ],
)
def test_bad_reducers_and_sites(tmp_path: Path, reducers: dict[Any, Any], message: str) -> None:
    with pytest.raises(PyengineError, match=message) as caught:
        extracted(reducers, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "fast"}, "unknown activation 'fast'"),
        ({"batch_tokens": 0}, "batch_tokens must be a whole number from 1 on"),
        ({"block_tokens": 0}, "block_tokens must be a whole number from 1 on"),
        ({"shard": (2, 2)}, "shard 2 of 2 does not exist"),
        ({"family": "bert"}, None),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str | None) -> None:
    reducers = {"blocks.1.mlp.hook_post": [StreamingTopK(3, 37, per="prefix")]}
    with pytest.raises(PyengineError, match=message or "per='prefix' is for causal models"):
        extracted(reducers, **settings)


def test_attention_maps_and_double_precision() -> None:
    hf = tiny_model("gpt2", attn_implementation="eager")
    corpus = Corpus.from_token_ids(random_units())
    with pytest.raises(PyengineError, match="has not one vector for each token"):
        extract(pyengine.load((hf, None)), corpus, {"blocks.1.attn.hook_pattern": [Moments(4)]})
    double = pyengine.load((tiny_model("gpt2").double(), None))
    with pytest.raises(PyengineError, match="float32"):
        extract(double, corpus, {SITE: [Moments(37)]})


PUT: dict[str, Callable[[nn.Module, Any], Any]] = {
    "before": lambda module, hook: module.register_forward_pre_hook(hook),
    "after": lambda module, hook: module.register_forward_hook(hook),
}


@pytest.mark.parametrize(
    ("family", "path", "where"),
    [
        ("gpt2", "transformer.h.0.mlp.act", "before"),
        ("gpt2", "transformer.h.0.mlp.act", "after"),
        ("gpt2", "transformer.h.1.mlp.c_proj", "before"),
        ("bert", "bert.encoder.layer.0.intermediate.intermediate_act_fn", "after"),
        ("t5", "encoder.block.0.layer.1.DenseReluDense.act", "after"),
        ("t5_gated", "encoder.block.0.layer.1.DenseReluDense", "after"),
        ("t5_gated", "encoder.block.0.layer.1.DenseReluDense.act", "before"),
    ],
)
def test_hooks_that_the_fused_activation_would_pass_by_are_refused(
    family: str, path: str, where: str
) -> None:
    hf = tiny_model(family)
    site = "encoder_blocks.1.mlp.hook_post" if "t5" in family else SITE
    seen: list[str] = []
    PUT[where](hf.get_submodule(path), lambda *_: seen.append(path))
    model, corpus = pyengine.load((hf, None)), Corpus.from_token_ids(random_units())
    with pytest.raises(PyengineError, match=r"hooks on \S+, .*activation='model'") as caught:
        extract(model, corpus, {site: [Moments(37)]})
    assert "\n" not in str(caught.value)
    assert not seen
    extract(model, corpus, {site: [Moments(37)]}, activation="model")
    assert seen, "the caller's hooks are carried along"


def test_hooks_elsewhere_are_honoured() -> None:
    hf, corpus = tiny_model("gpt2"), Corpus.from_token_ids(random_units())
    reducers = {"blocks.2.hook_resid_post": [Moments(20)]}
    plain = extract(pyengine.load((hf, None)), corpus, reducers)["blocks.2.hook_resid_post"][0]
    hf.transformer.h[1].mlp.c_proj.register_forward_pre_hook(
        lambda _m, x: (torch.zeros_like(x[0]),)
    )
    edited = extract(pyengine.load((hf, None)), corpus, reducers)["blocks.2.hook_resid_post"][0]
    assert not torch.equal(plain.mean, edited.mean)
    assert len(hf.transformer.h[1].mlp.c_proj._forward_pre_hooks) == 1

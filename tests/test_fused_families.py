"""`activation="fused"` replaces a module of every layer, in every family, by the same formula."""

from typing import Any

import pytest
import torch
from tiny_models import tiny_model

import pyengine
from pyengine.capture import Capture
from pyengine.fused import _FusedActivation, _FusedGatedFFN

CASES = {
    "GPT-2 gelu_new": ("gpt2", {}, _FusedActivation),
    "GPT-Neo gelu_new": ("gpt_neo", {}, _FusedActivation),
    "BERT gelu": ("bert", {}, _FusedActivation),
    "T5 relu": ("t5", {}, _FusedActivation),
    "T5 gated-gelu": ("t5", {"feed_forward_proj": "gated-gelu"}, _FusedGatedFFN),
    "T5 gated-silu": ("t5", {"feed_forward_proj": "gated-silu"}, _FusedGatedFFN),
}


@pytest.mark.parametrize(("family", "settings", "kind"), CASES.values(), ids=CASES)
def test_every_layer_is_fused(family: str, settings: dict[str, Any], kind: type) -> None:
    model = pyengine.load((tiny_model(family, **settings), None))
    fused = Capture(model, {}, lambda *_: None)._forward.body
    assert sum(isinstance(module, kind) for module in fused.modules()) == model.n_layers
    own = Capture(model, {}, lambda *_: None, activation="model")._forward.body
    ours = (_FusedActivation, _FusedGatedFFN)
    assert not any(isinstance(module, ours) for module in own.modules())


@pytest.mark.parametrize(("family", "settings", "kind"), CASES.values(), ids=CASES)
def test_the_search_finds_the_same(family: str, settings: dict[str, Any], kind: type) -> None:
    model = pyengine.load((tiny_model(family, **settings), None))
    corpus = pyengine.Corpus.from_token_ids([[5, 9, 17, 3], [40, 2, 8], [11, 12, 13, 14, 15]])
    by_ours, by_model = (
        pyengine.trigger_examples(model, corpus, 2, activation=activation).scores
        for activation in ("fused", "model")
    )
    assert torch.allclose(by_ours, by_model, rtol=1e-4, atol=1e-5)

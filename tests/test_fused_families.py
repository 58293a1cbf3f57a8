"""`activation="fused"` replaces a module of every layer, in every family, by the same formula."""

from functools import partial
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch.nn import functional
from transformers.activations import ACT2FN

import pyengine
from pyengine.capture import Capture
from pyengine.fused import FUSED_ACTIVATIONS, _FusedActivation, _FusedGatedFFN, formula_of

CASES = {
    "GPT-2 gelu_new": ("gpt2", {}, _FusedActivation),
    "GPT-Neo gelu_new": ("gpt_neo", {}, _FusedActivation),
    "openai-gpt gelu": ("openai-gpt", {}, _FusedActivation),
    "openai-gpt swish": ("openai-gpt", {"afn": "swish"}, _FusedActivation),
    "BERT gelu": ("bert", {}, _FusedActivation),
    "ELECTRA gelu_fast": ("electra_small", {"hidden_act": "gelu_fast"}, _FusedActivation),
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


FORMULAS: dict[str | None, Any] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


@pytest.mark.parametrize("name", FUSED_ACTIVATIONS)
def test_formulas_are_those_of_the_modules(name: str) -> None:
    x = torch.linspace(-6, 6, 997, dtype=torch.float64)
    formula = formula_of(ACT2FN[name])
    assert formula == FUSED_ACTIVATIONS[name]
    # gelu_fast's constant has 10 digits; the two kinds of gelu differ by up to 5e-4.
    torch.testing.assert_close(ACT2FN[name](x), FORMULAS[formula](x), rtol=0, atol=1e-8)


def test_the_module_counts_not_its_name() -> None:
    """openai-gpt calls the tanh approximation gelu, and all its blocks share one module."""
    hf = tiny_model("openai-gpt")
    assert hf.config.afn == "gelu" and hf.transformer.h[0].mlp.act is hf.transformer.h[1].mlp.act
    assert formula_of(hf.transformer.h[0].mlp.act) == "gelu_tanh"


def test_an_activation_without_a_kernel_is_refused_by_name() -> None:
    model = pyengine.load(tiny_model("bert", hidden_act="mish"))
    with pytest.raises(
        pyengine.PyengineError, match=r"no fused kernel for MishActivation, .*layer 0"
    ):
        Capture(model, {}, lambda *_: None)
    Capture(model, {}, lambda *_: None, activation="model")

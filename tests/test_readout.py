"""Readouts against the logits that transformers computes itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, VOCAB, tiny_model

import pyengine
from pyengine.errors import PyengineError
from pyengine.readout import readout

IDS = torch.tensor([[5, 17, 44, 8, 90, 3]])


def outputs(hf: Any) -> Any:
    inputs = {"input_ids": IDS}
    if hf.config.model_type == "t5":
        inputs["decoder_input_ids"] = IDS
    with torch.inference_mode():
        return hf(**inputs, output_hidden_states=True)


def last_normed(hf: Any) -> torch.Tensor:
    """Return the last hidden states as transformers gives them: the final norm is in them."""
    out = outputs(hf)
    hidden = out.decoder_hidden_states if hf.config.model_type == "t5" else out.hidden_states
    return hidden[-1][0]


def last_bare(hf: Any) -> torch.Tensor:
    """Return the last stack's output before its final norm, taken with a hook on that norm."""
    norms = {
        "gpt2": "transformer.ln_f",
        "gpt_neo": "transformer.ln_f",
        "t5": "decoder.final_layer_norm",
        "openai-gpt": "transformer.h.2.ln_2",
        "bert": "bert.encoder.layer.2.output.LayerNorm",
        "electra": "electra.encoder.layer.2.output.LayerNorm",
    }
    seen: list[torch.Tensor] = []
    norm = hf.get_submodule(norms[hf.config.model_type])
    handle = norm.register_forward_pre_hook(lambda _m, x: seen.append(x[0][0].detach()))
    outputs(hf)
    handle.remove()
    return seen[0]


def build(family: str, **overrides: Any) -> tuple[Any, pyengine.Model]:
    hf = tiny_model(family, **overrides)
    return hf, pyengine.load(hf)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_full_head_gives_the_model_s_own_logits(family: str, tied: bool) -> None:
    hf, model = build(family, tie_word_embeddings=tied)
    read = readout(model, model.layers[-1], final_norm=False)
    torch.testing.assert_close(read.logits(last_normed(hf)), outputs(hf).logits[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_final_norm_completes_the_last_layer(family: str) -> None:
    hf, model = build(family)
    read = readout(model, model.layers[-1], final_norm=True)
    torch.testing.assert_close(read.logits(last_bare(hf)), outputs(hf).logits[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_project_agrees_with_all_logits(family: str) -> None:
    _, model = build(family)
    hidden = torch.randn(5, model.values(0).shape[1])
    read = readout(model, model.layers[0], final_norm=True)
    found = read.project(hidden, targets=torch.full((5, 1), 7), m=3)
    logits = read.logits(hidden)
    assert torch.equal(found.top_ids, logits.topk(3, dim=1).indices)
    torch.testing.assert_close(found.target_logits[:, 0], logits[:, 7])
    torch.testing.assert_close(found.lse, logits.logsumexp(1))


def test_bare_embedding_of_bert_has_no_bias_and_no_transform() -> None:
    hf, model = build("bert")
    hidden = torch.randn(4, hf.config.hidden_size)
    read = readout(model, model.layers[1], final_norm=False, head="embedding")
    expected = hidden @ hf.bert.embeddings.word_embeddings.weight.t()
    torch.testing.assert_close(read.logits(hidden), expected.detach())
    assert hf.cls.predictions.bias.abs().sum() > 0  # or the test could not fail


def test_norm_of_bert_is_that_of_the_layer() -> None:
    hf, model = build("bert")
    hidden = torch.randn(4, hf.config.hidden_size)
    for index in range(3):
        read = readout(model, model.layers[index], final_norm=True, head="embedding")
        norm = hf.bert.encoder.layer[index].output.LayerNorm
        torch.testing.assert_close(read.prepare(hidden), norm(hidden).detach())


def test_encoder_of_t5_has_its_own_norm_and_the_same_scale() -> None:
    hf, model = build("t5")
    assert hf.config.scale_decoder_outputs
    hidden = torch.randn(4, hf.config.d_model)
    read = readout(model, model.layers[0], final_norm=True)
    expected = hf.encoder.final_layer_norm(hidden) * hf.config.d_model**-0.5
    torch.testing.assert_close(read.prepare(hidden), expected.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_models_are_read_in_float32(family: str, dtype: torch.dtype) -> None:
    hf = tiny_model(family).to(dtype)
    model = pyengine.load(hf)
    hidden = torch.randn(3, model.values(0).shape[1], dtype=dtype)
    read = readout(model, model.layers[-1], final_norm=True)
    double = pyengine.load(tiny_model(family).to(dtype).double())
    exact = readout(double, double.layers[-1], final_norm=True).logits(hidden)
    assert read.logits(hidden).dtype == torch.float32
    torch.testing.assert_close(read.logits(hidden).double(), exact, rtol=1e-5, atol=1e-4)
    assert next(hf.parameters()).dtype == dtype  # the caller's model is as it was


def test_missing_heads_are_refused_with_the_way_out(tmp_path: Path) -> None:
    hf, _ = build("bert")
    headless = pyengine.load(hf.bert)
    with pytest.raises(PyengineError, match="no output head; head='embedding'"):
        readout(headless, headless.layers[0], final_norm=False)
    read = readout(headless, headless.layers[0], final_norm=False, head="embedding")
    assert read.weight.shape == (VOCAB, hf.config.hidden_size)

    # A checkpoint of a body, loaded as a masked language model: its head would be random.
    hf.bert.config.architectures = ["BertForMaskedLM"]
    hf.bert.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("BertModel", "BertForMaskedLM"))
    loaded = pyengine.load(tmp_path)
    assert loaded.absent
    with pytest.raises(PyengineError, match=r"the checkpoint of .* has no output head"):
        readout(loaded, loaded.layers[0], final_norm=False)
    readout(loaded, loaded.layers[0], final_norm=False, head="embedding")


def test_complete_checkpoints_lack_nothing() -> None:
    model = pyengine.load("demo")
    assert not model.absent
    with pytest.raises(PyengineError, match="unknown head 'tuned'; known are: full, embedding"):
        readout(model, model.layers[0], final_norm=False, head="tuned")


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_rows(family: str) -> None:
    """The FFN's output is the sum of coefficient times value, plus the bias."""
    _, model = build(family)
    layer = model.layers[0]
    module: Any = layer.module(model.body, layer.stack.value)
    coefficients = torch.rand(2, model.d_ff)
    expected = module(coefficients)
    if module.bias is not None:  # T5 has none
        expected = expected - module.bias
    torch.testing.assert_close(coefficients @ model.values(0), expected.detach())

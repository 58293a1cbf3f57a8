"""Mean coefficients against hooks on the model itself, unit by unit."""

from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, tiny_model

import pyengine
from pyengine import Corpus, PyengineError

UNITS = [[5, 9, 11, 60], [7], [8, 12, 13, 14, 15, 16, 17], [80, 81]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_hooks(family: str, dtype: torch.dtype) -> None:
    model = pyengine.load(tiny_model(family).to(dtype))
    found = pyengine.mean_activations(model, Corpus.from_token_ids(UNITS))
    assert found.dtype == dtype and found.shape == (model.n_layers, model.d_ff)
    expected = torch.zeros(found.shape, dtype=torch.float64)
    for layer in model.layers:
        # The decoder's first slot is the start token.
        first = int(layer.stack.causal and model.family.encoder_decoder)

        def add(_module: Any, inputs: Any, index: int = layer.index, first: int = first) -> None:
            expected[index] += inputs[0][0, first:].double().sum(0)

        layer.module(model.body, layer.stack.value).register_forward_pre_hook(add)
    with torch.no_grad():
        for unit in UNITS:
            ids: dict[str, Any] = {"input_ids": torch.tensor([unit])}
            if model.family.encoder_decoder:
                ids["decoder_input_ids"] = torch.tensor([[model.decoder_start_id, *unit]])
            model.hf(**ids)
    expected /= sum(map(len, UNITS))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_is_a_baseline_for_attribution() -> None:
    kn = pyengine.KnowledgeNeurons("demo")
    mean = kn.mean_activations(Corpus.from_texts(["The tower is in Paris .", "He plays ."]))
    found = kn.attribute("Vobirk Drovind was born in", " Rome", baseline=mean)
    assert bool(found.converged.all()) and found.settings["baseline"] == "given"


def test_an_empty_corpus_has_none() -> None:
    model = pyengine.load(tiny_model("gpt2"))
    with pytest.raises(PyengineError, match="empty"):
        pyengine.mean_activations(model, Corpus.from_token_ids([]))

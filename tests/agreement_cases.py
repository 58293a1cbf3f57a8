"""What the tests of agreement share: targets at random, columns as tensors, a known network."""

from typing import Any

import numpy as np
import torch
from tiny_models import tiny_model, word_tokenizer
from torch import Tensor

import pyengine
from pyengine import Agreement, Model, Targets
from pyengine.token_text import TokenText

SIZE = 97
TEXTS = ["w1 w2 w3 w4", "w5", "w6 w1 w2 w9 w8", "w1 w2 w3 w4"]


def random_targets(model: Model, k: int = 4, seed: int = 0) -> Targets:
    """Draw targets for every key; about one in eight is missing."""
    generator = torch.Generator().manual_seed(seed)
    shape = (model.n_layers, model.d_ff, k)

    def draw() -> Tensor:
        tokens = torch.randint(model.vocab_size, shape, generator=generator)
        return torch.where(torch.rand(shape, generator=generator) < 1 / 8, -1, tokens)

    layers, dims = tuple(range(model.n_layers)), tuple(range(model.d_ff))
    return Targets(layers, dims, draw(), draw(), TokenText(None))


def column(found: Agreement, name: str, layer: int) -> Tensor:
    """Return a column of a layer, [n] or [n, m]; null becomes -1, or NaN."""
    rows = np.asarray(found.table["layer"]) == layer
    array = found.table[name].filter(rows).combine_chunks()
    flat = array.flatten() if hasattr(array, "flatten") and "list" in str(array.type) else array
    flat = flat.fill_null(float("nan") if "float" in str(flat.type) else -1)
    values = torch.tensor(flat.to_numpy(zero_copy_only=False))
    values = values.double() if values.is_floating_point() else values.long()
    return values.view(len(array), -1) if len(flat) != len(array) else values


def known_network(values: Tensor) -> Any:
    """A GPT-2 of one layer whose embedding is the identity, whose key d fires on token d alone.

    So a value's logits are its own components.
    """
    hf = tiny_model("gpt2", n_embd=SIZE, n_head=1, n_layer=1, n_inner=SIZE)
    body = hf.transformer
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        body.wte.weight.copy_(torch.eye(SIZE))
        for norm in (body.h[0].ln_1, body.h[0].ln_2, body.ln_f):
            norm.weight.fill_(1)
        body.h[0].mlp.c_fc.weight.copy_(torch.eye(SIZE))
        body.h[0].mlp.c_proj.weight.copy_(values)
    return hf


def searched_texts(family: str = "gpt2", **settings: Any) -> tuple[Model, Any]:
    """Load a tiny model with a tokenizer, and search `TEXTS`."""
    model = pyengine.load((tiny_model(family), word_tokenizer()))
    corpus = pyengine.Corpus.from_texts(TEXTS)
    return model, pyengine.trigger_examples(model, corpus, k=3, **settings)


def search(hf: Any, units: list[list[int]], **settings: Any) -> tuple[Model, Any]:
    """Wrap a network and search units of token ids."""
    model = pyengine.load(hf)
    corpus = pyengine.Corpus.from_token_ids(units)
    return model, pyengine.trigger_examples(model, corpus, **{"k": 2, **settings})

"""`extract_heads`: sentence vectors against values pooled by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heads_helpers import extracted, sentences_of, task, tiny
from prediction_helpers import FOLDERS
from tiny_models import FAMILIES, tiny_model

from pyengine import HeadBank, PyengineError, load
from pyengine.heads.places import LOCATIONS, places_of
from pyengine.hooked import run_with_cache
from pyengine.models import Model


def locations_of(model: Model) -> tuple[str, ...]:
    return tuple(one for one in LOCATIONS if one != "cross" or model.family.encoder_decoder)


def pooled_by_hand(model: Model, bank: HeadBank, text: str, inputs: Any = None) -> dict[str, Any]:
    """Pool what `run_with_cache` gives for one sentence alone."""
    names = [place.site.name for place in places_of(model, locations_of(model))]
    _, cache = run_with_cache(model, text if inputs is None else inputs, names, return_type=None)
    pools = {
        "first": lambda value: value[0],
        "last": lambda value: value[-1],
        "mean": lambda value: value.mean(0),
        "pad": lambda value: value[-1],
    }
    return {
        place.name: pools[bank.place(place.location, place.layer).pooling](
            cache[place.site.name][0].flatten(1)
        ).numpy()
        for place in places_of(model, locations_of(model))
    }


def check_by_hand(model: Model, bank: HeadBank, inputs: list[Any] | None = None) -> None:
    found = {
        place.name: bank.vectors(place.location, place.layer).reshape(bank.n_sentences, -1)
        for place in bank.places
    }
    for row, text in enumerate(bank.texts()):
        wanted = pooled_by_hand(model, bank, text, None if inputs is None else inputs[row])
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            # Of rows of other lengths, matrix products are rounded in another order.
            limit = 2e-5 * (1 + float(np.abs(value).max()))
            np.testing.assert_allclose(found[name][row], value, atol=limit, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_vectors_are_those_of_each_sentence_alone(
    tmp_path: Path, family: str, pooling: str
) -> None:
    model = tiny(family)
    more: dict[str, Any] = {"locations": locations_of(model), "activation": "model"}
    bank = extracted(tmp_path / "run", model=model, pooling=pooling, **more)
    assert {place.pooling for place in bank.places} == {pooling}
    assert len(bank.files) > 1
    check_by_hand(model, bank)


@pytest.mark.parametrize("family", FAMILIES)
def test_alone_and_by_the_models_own_modules_the_bits_are_the_same(
    tmp_path: Path, family: str
) -> None:
    model = tiny(family)
    more: dict[str, Any] = {"locations": locations_of(model), "activation": "model"}
    bank = extracted(tmp_path / "run", model=model, pooling="last", batch_tokens=1, **more)
    found = {
        place.name: bank.vectors(place.location, place.layer).reshape(bank.n_sentences, -1)
        for place in bank.places
    }
    for row, text in enumerate(bank.texts()[::4]):
        for name, value in pooled_by_hand(model, bank, text).items():
            assert np.array_equal(found[name][4 * row], value), name


@pytest.mark.parametrize("family", FOLDERS)
def test_trained_models_and_their_special_tokens(tmp_path: Path, family: str) -> None:
    model = load(FOLDERS[family], device="cpu")
    texts = ["The film was released in 1998 .", "She was born in London", "A", "The film was ."]
    bank = extracted(
        tmp_path / "run",
        model=model,
        tasks=[task("A", texts)],
        locations=locations_of(model),
        block_tokens=12,
    )
    chosen = {place.stack: place.pooling for place in bank.places}
    auto = {"bert": {"encoder": "first"}, "t5": {"encoder": "mean", "decoder": "last"}}
    assert chosen == auto.get(family, {"decoder": "last"})
    check_by_hand(model, bank)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "openai-gpt"])
def test_the_pad_slot_is_token_0_put_after_the_sentence(tmp_path: Path, family: str) -> None:
    model = tiny(family)
    more: dict[str, Any] = {"locations": locations_of(model), "activation": "model"}
    bank = extracted(tmp_path / "run", model=model, pooling="pad", **more)
    assert model.tokenizer is not None
    ids = [[*model.tokenizer(text)["input_ids"], 0] for text in bank.texts()]
    check_by_hand(model, bank, [[row] for row in ids])
    # <pad> is token 0 of the tokenizer: the same sentences, as told.
    spelled = [f"{text} <pad>" for text in bank.texts()]
    last = extracted(tmp_path / "last", model=model, pooling="last", tasks=[task("A", spelled)])
    at = {text: row for row, text in enumerate(last.texts())}
    rows = [at[text] for text in spelled]
    for layer in range(model.n_layers):
        mine, theirs = bank.vectors("head", layer), last.vectors("head", layer)[rows]
        np.testing.assert_allclose(mine, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_batches_and_padding_change_nothing_but_rounding(
    tmp_path: Path, family: str, pooling: str
) -> None:
    model = tiny(family)
    how: dict[str, Any] = {"model": model, "pooling": pooling, "locations": locations_of(model)}
    one = extracted(tmp_path / "one", batch_tokens=1, block_tokens=10_000, **how)  # no padding
    all_of_them = extracted(tmp_path / "all", batch_tokens=10_000, block_tokens=10_000, **how)
    for place in one.places:
        mine, theirs = (bank.vectors(place.location, place.layer) for bank in (one, all_of_them))
        limit = 2e-5 * (1 + float(np.abs(mine).max()))
        np.testing.assert_allclose(mine, theirs, atol=limit, rtol=0)


def test_fused_activations_change_nothing_but_rounding(tmp_path: Path) -> None:
    for family in ("gpt2", "bert", "t5_gated"):
        fused = extracted(tmp_path / f"{family}-fused", family, activation="fused")
        model = extracted(tmp_path / f"{family}-model", family, activation="model")
        for place in fused.places:
            mine, theirs = (bank.vectors(place.location, place.layer) for bank in (fused, model))
            limit = 1e-4 * (1 + float(np.abs(mine).max()))
            np.testing.assert_allclose(mine, theirs, atol=limit, rtol=0)


def test_poolings_by_stack(tmp_path: Path) -> None:
    bank = extracted(
        tmp_path / "run", "t5", pooling={"decoder": "mean"}, locations=("head", "cross")
    )
    assert {p.stack: p.pooling for p in bank.places} == {"encoder": "mean", "decoder": "mean"}
    assert {p.stack for p in bank.places if p.location == "cross"} == {"decoder"}
    with pytest.raises(PyengineError, match="unknown stack 'middle'; known are: encoder, decoder"):
        extracted(tmp_path / "other", "t5", pooling={"middle": "mean"})


def uniform(family: str) -> tuple[Any, Any]:
    """A model whose first attention averages: the rows of tokens 0, 1, 2 hold 1 … 24."""
    overrides = {"gpt2": {"n_embd": 8, "n_head": 2}, "bert": {"hidden_size": 8}}
    hf: Any = tiny_model(family, **overrides[family])
    rows = torch.arange(1.0, 25.0).reshape(3, 8)
    with torch.no_grad():
        if family == "gpt2":
            body, block = hf.transformer, hf.transformer.h[0]
            body.wpe.weight.zero_()
            block.ln_1 = torch.nn.Identity()
            block.attn.c_attn.weight.zero_()
            block.attn.c_attn.bias.zero_()
            block.attn.c_attn.weight[:, 16:] = torch.eye(8)
            body.wte.weight[:3] = rows
        else:
            body, attention = hf.bert, hf.bert.encoder.layer[0].attention.self
            body.embeddings.position_embeddings.weight.zero_()
            body.embeddings.token_type_embeddings.weight.zero_()
            body.embeddings.LayerNorm = torch.nn.Identity()
            for part in (attention.query, attention.key, attention.value):
                part.weight.zero_()
                part.bias.zero_()
            attention.value.weight[:] = torch.eye(8)
            body.embeddings.word_embeddings.weight[:3] = rows
    return hf, numbers_tokenizer()


def numbers_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.WordLevel({f"{i}": i for i in range(90)}, unk_token="89"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="89")


@pytest.mark.parametrize("batch_tokens", [1, 100])  # alone, and beside longer ones
def test_uniform_attention_in_closed_form(tmp_path: Path, batch_tokens: int) -> None:
    texts = ["0 1 2", "0 1", "1 2", "0 1 2 1 2 1 2"]
    tasks = [task("A", texts)]
    rows = {text: row for row, text in enumerate(sentences_of(tasks))}
    how: dict[str, Any] = {"tasks": tasks, "locations": ("head",), "batch_tokens": batch_tokens}

    def heads(family: str, pooling: str) -> np.ndarray:
        out = tmp_path / f"{family}-{pooling}"
        bank = extracted(out, model=load(uniform(family)), pooling=pooling, **how)
        return bank.vectors("head", 0)

    found = heads("bert", "first")[rows["0 1 2"]]  # bidirectional: the mean of all three
    np.testing.assert_allclose(found, [[9, 10, 11, 12], [13, 14, 15, 16]], rtol=1e-6)
    found = heads("gpt2", "last")[rows["0 1"]]  # causal, position 1: the mean of two
    np.testing.assert_allclose(found, [[5, 6, 7, 8], [9, 10, 11, 12]], rtol=1e-6)
    found = heads("gpt2", "pad")[rows["1 2"]]  # the mean with the token 0 put after them
    np.testing.assert_allclose(found, [[9, 10, 11, 12], [13, 14, 15, 16]], rtol=1e-6)
    found = heads("gpt2", "mean")[rows["0 1"]]
    np.testing.assert_allclose(found, [[3, 4, 5, 6], [7, 8, 9, 10]], rtol=1e-6)

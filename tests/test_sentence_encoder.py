"""Heads of a model as a sentence encoder: the vectors of a bank, and how it is used and saved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_cases import special_tokenizer
from heads_helpers import extracted, small_tasks, tiny
from heads_results_helpers import concat_rows, head_rows, row, table
from tiny_models import FAMILIES, tiny_model, word_tokenizer

import pyengine
from pyengine import HeadResults, PyengineError, SentenceEncoder, load
from pyengine.heads.results_table import CONCATS, append

HEADS = [(1, 1), (0, 0), (1, 0)]
TEXTS = ["w1 w2 w3 w4", "w9", "w5 w6", "w9", "w7 w8 w1 w2 w3 w3"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_vectors_are_those_of_a_bank(family: str, pooling: str, tmp_path: Path) -> None:
    model = tiny(family)
    bank = extracted(tmp_path, model=model, locations=("head",), pooling=pooling)
    heads = [(model.n_layers - 1, 1), (0, 0), (model.n_layers - 1, 0)]
    encoder = SentenceEncoder(model, heads, pooling=pooling)
    wanted = np.concatenate([bank.vectors("head", a)[:, b] for a, b in heads], axis=1)
    found = encoder.encode(bank.texts(), batch_size=7)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert found.dtype == np.float32
    assert found.shape[1] == encoder.width == encoder.get_sentence_embedding_dimension()


def test_the_same_batches_give_the_bits_of_a_bank(tmp_path: Path) -> None:
    model = tiny("bert")
    bank = pyengine.extract_heads(model, small_tasks(), out=tmp_path)
    found = SentenceEncoder(model, [(2, 0)]).encode(bank.texts(), batch_size=None)
    assert (found == bank.vectors("head", 2)[:, 0]).all()


def test_places_other_than_heads_are_read_as_a_whole(tmp_path: Path) -> None:
    model = tiny("gpt2")
    bank = extracted(tmp_path, model=model, locations=("head", "block"))
    texts = bank.texts()
    block = SentenceEncoder(model, [(1, 0)], location="block").encode(texts)
    np.testing.assert_allclose(block, bank.vectors("block", 1)[:, 0], rtol=0, atol=1e-5)
    whole = SentenceEncoder(model, [(0, -1), (1, 2)]).encode(texts)
    layer = bank.vectors("head", 0).reshape(len(texts), -1)
    wanted = np.concatenate([layer, bank.vectors("head", 1)[:, 2]], axis=1)
    np.testing.assert_allclose(whole, wanted, rtol=0, atol=1e-5)


def test_order_and_batches_change_nothing() -> None:
    encoder = SentenceEncoder(tiny("bert"), HEADS)
    whole = encoder.encode(TEXTS)
    assert (whole[1] == whole[3]).all()
    turned = encoder.encode(TEXTS[::-1], batch_size=2)[::-1]
    np.testing.assert_allclose(turned, whole, rtol=0, atol=1e-5)
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-5)


def test_the_pass_ends_at_the_last_layer_needed() -> None:
    model = tiny("gpt2")
    calls = list[int]()
    for number, block in enumerate(model.body.get_submodule("h").children()):
        block.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    SentenceEncoder(model, [(1, 0), (0, 3)]).encode(TEXTS)
    assert set(calls) == {0, 1}


def test_shapes_and_kinds_of_what_comes_out() -> None:
    encoder = SentenceEncoder(tiny(), HEADS)
    assert encoder.encode([]).shape == (0, 15)
    assert encoder.encode("w1").shape == (15,)
    tensor = encoder.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == (5, 15)
    listed = encoder.encode(TEXTS, convert_to_numpy=False)
    assert len(listed) == 5
    assert torch.equal(listed[2], tensor[2])
    assert not tensor.requires_grad


def test_an_empty_text_and_one_too_long() -> None:
    encoder = SentenceEncoder(tiny(), HEADS)
    found = encoder.encode(["", ".", " ".join(["w3"] * 40), " ".join(["w3"] * 32)])
    assert (found[0] == found[1]).all()
    np.testing.assert_allclose(found[2], found[3], rtol=0, atol=1e-5)


def test_vectors_of_length_one_and_their_cosines() -> None:
    model = tiny("bert")
    plain = SentenceEncoder(model, HEADS)
    vectors = plain.encode(TEXTS)
    wanted = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = SentenceEncoder(model, HEADS, normalize=True).encode(TEXTS)
    np.testing.assert_allclose(unit, wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        plain.encode(TEXTS, normalize_embeddings=True), wanted, rtol=0, atol=1e-6
    )
    cosines = plain.similarity(vectors, vectors[1])
    assert cosines.shape == (5, 1)
    np.testing.assert_allclose(cosines[:, 0], wanted @ wanted[1], rtol=0, atol=1e-6)
    assert cosines[3, 0] == pytest.approx(1)
    assert plain.similarity(vectors[0], np.zeros(30)).item() == 0


def test_progress_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    encoder, told = SentenceEncoder(tiny(), HEADS), list[tuple[int, int]]()
    encoder.encode(TEXTS, batch_size=1, on_progress=lambda *n: told.append(n))
    assert told[-1] == (13, 13)  # tokens of distinct texts
    assert len(told) > 1
    encoder.encode(TEXTS)
    assert capsys.readouterr().err == ""
    encoder.encode(TEXTS, show_progress_bar=True)
    assert "100%" in capsys.readouterr().err


def saved_model(folder: Path, seed: int = 0) -> Path:
    tiny_model("bert", seed).save_pretrained(folder)
    special_tokenizer().save_pretrained(folder)
    return folder


def test_an_encoder_is_saved_and_read(tmp_path: Path) -> None:
    model = load(saved_model(tmp_path / "model"), device="cpu")
    encoder = SentenceEncoder(model, HEADS, pooling="mean", normalize=True)
    folder = encoder.save(tmp_path / "encoder")
    assert [path.name for path in folder.iterdir()] == ["sentence_encoder.json"]
    for again in (SentenceEncoder.load(folder, device="cpu"), SentenceEncoder.load(folder, model)):
        assert again.heads == encoder.heads
        assert (again.encode(TEXTS) == encoder.encode(TEXTS)).all()


def test_another_model_is_refused(tmp_path: Path) -> None:
    model = load(saved_model(tmp_path / "model"), device="cpu")
    folder = SentenceEncoder(model, HEADS).save(tmp_path / "encoder")
    with pytest.raises(PyengineError, match=r"of another model.*the sha256"):
        SentenceEncoder.load(folder, load(saved_model(tmp_path / "other", seed=1), device="cpu"))
    with pytest.raises(PyengineError, match="the tokenizer_sha256"):
        SentenceEncoder.load(folder, (model.hf, word_tokenizer()))


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match="holds no sentence encoder"):
        SentenceEncoder.load(tmp_path)
    path = tmp_path / "sentence_encoder.json"
    for text, message in (
        ("{", "damaged"),
        ("{}", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 9}', "version"),
    ):
        path.write_text(text)
        with pytest.raises(PyengineError, match=message):
            SentenceEncoder.load(tmp_path)


def test_the_best_heads_of_results(tmp_path: Path) -> None:
    model = tiny("bert", num_attention_heads=4)
    other = head_rows(pooling="first", bank="c" * 64)  # of the same heads, pooled otherwise
    append(tmp_path, table(head_rows(pooling="mean", model=model.name)))
    results = HeadResults.open(tmp_path)
    encoder = SentenceEncoder.from_results(model, results, "TREC", 3)
    assert list(encoder.heads) == results.ranked("TREC", 3)
    assert encoder.pooling == {"encoder": "mean"}
    with pytest.raises(PyengineError, match="no heads were concatenated"):
        SentenceEncoder.from_results(model, results, "TREC")
    append(tmp_path, table([one | {"model": model.name} for one in other]))
    append(tmp_path, table(concat_rows(ns=(1, 4), model=model.name), CONCATS), CONCATS)
    best = SentenceEncoder.from_results(model, HeadResults.open(tmp_path), "TREC")
    assert best.heads == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert best.pooling == {"encoder": "mean"}
    with pytest.raises(PyengineError, match=r"no results with model 'GPT2LMHeadModel'.*BertFor"):
        SentenceEncoder.from_results(tiny("gpt2"), results, "TREC", 3)


def test_stacks_keep_their_poolings(tmp_path: Path) -> None:
    places = [
        {"layer": 1, "pooling": "mean", "dev": 70.0},
        {"layer": 3, "pooling": "first", "dev": 60.0},
    ]
    model = tiny("t5")
    append(tmp_path, table([row(**place, model=model.name) for place in places]))
    encoder = SentenceEncoder.from_results(model, HeadResults.open(tmp_path), "TREC", 2)
    assert encoder.heads == ((1, 0), (3, 0))
    assert encoder.pooling == {"encoder": "mean", "decoder": "first"}


@pytest.mark.parametrize(
    ("heads", "more", "message"),
    [
        ([], {}, "at least one"),
        ([(3, 0)], {}, "no 'head' in a layer 3"),
        ([(0, 4)], {}, "has 4 parts, not 4"),
        ([(0, -2)], {}, "not -2"),
        ([(0, 0)], {"location": "cross"}, "no location 'cross'"),
        ([(0, 0)], {"location": "tail"}, "unknown location 'tail'"),
        ([(0, 0)], {"pooling": "max"}, "unknown pooling 'max'"),
    ],
)
def test_what_cannot_be_read_is_refused(
    heads: list[tuple[int, int]], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(PyengineError, match=message):
        SentenceEncoder(tiny(), heads, **more)


def test_only_texts_are_encoded() -> None:
    encoder = SentenceEncoder(tiny(), HEADS)
    with pytest.raises(PyengineError, match="takes texts, not int"):
        encoder.encode(["w1", 3])  # type: ignore[list-item]
    with pytest.raises(PyengineError, match="batch_size"):
        encoder.encode(TEXTS, batch_size=0)

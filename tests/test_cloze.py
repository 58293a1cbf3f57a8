"""Prompts and answers as token ids, for every family's trained tokenizer."""

import warnings
from pathlib import Path
from typing import Any

import pytest

import pyengine
from pyengine import Model, PyengineError
from pyengine.cloze import Cloze, batch_clozes, clozes, ends_in_mask

MODELS = Path(__file__).parent / "models"
FAMILIES = ("demo", "gpt_neo", "bert", "t5")


def load(name: str) -> Model:
    return pyengine.load("demo" if name == "demo" else MODELS / name)


def tokens(model: Model, cloze: Cloze) -> list[str]:
    tokenizer: Any = model.tokenizer
    return tokenizer.convert_ids_to_tokens(list(cloze.input_ids))


def test_causal_models_read_the_text_before_the_answer() -> None:
    model = load("demo")
    plain = clozes(model, "Tugur Revas comes from the city of", " Dublin")
    assert plain == clozes(model, "Tugur Revas comes from the city of [MASK].", "Dublin")
    (cloze,) = plain
    tokenizer: Any = model.tokenizer
    assert tokenizer.decode(list(cloze.input_ids)) == "Tugur Revas comes from the city of"
    assert cloze.position == len(cloze.input_ids) - 1 and not cloze.decoder_ids
    assert tokenizer.decode([cloze.target]) == " Dublin"
    with pytest.raises(PyengineError, match=r"goes on after \[MASK\]"):
        clozes(model, "From [MASK] to there", "Dublin")


def test_several_tokens_are_read_after_one_another() -> None:
    model = load("gpt_neo")
    first, second, third = clozes(model, [5, 6], [7, 8, 9])
    assert first == Cloze((5, 6), 1, 7)
    assert second == Cloze((5, 6, 7), 2, 8)
    assert third == Cloze((5, 6, 7, 8), 3, 9)


def test_bert_has_a_mask_for_every_token() -> None:
    model = load("bert")
    (one,) = clozes(model, "Born in [MASK].", "Dublin")
    assert tokens(model, one)[one.position] == "[MASK]"
    mask, (left, right) = one.input_ids[one.position], clozes(model, "Born in [MASK].", [7, 8])
    assert left.input_ids.count(mask) == 2 and right.input_ids.count(mask) == 1
    assert right.position == left.position + 1
    assert right.input_ids[left.position] == 7  # the earlier token stands in its place
    assert clozes(model, "Born in [MASK] [MASK].", [7, 8]) == [left, right]
    assert clozes(model, list(left.input_ids), [7, 8]) == [left, right]


def test_t5_answers_after_the_sentinel() -> None:
    model = load("t5")
    tokenizer: Any = model.tokenizer
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    first, second = clozes(model, "Born in [MASK].", [7, 8])
    assert clozes(model, "Born in <extra_id_0>.", [7, 8]) == [first, second]
    assert first.input_ids == second.input_ids and first.input_ids[first.position] == sentinel
    assert first.decoder_ids == (model.decoder_start_id, sentinel)
    assert second.decoder_ids == (model.decoder_start_id, sentinel, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_padded_on_the_right(name: str) -> None:
    model = load(name)
    items = [*clozes(model, "A man in [MASK].", [7, 8]), *clozes(model, "In [MASK]", [9])]
    batch = batch_clozes(model, items)
    for row, cloze in enumerate(items):
        n = len(cloze.input_ids)
        assert batch.batch.input_ids[row, :n].tolist() == list(cloze.input_ids)
        assert batch.batch.attention_mask[row].tolist() == [1] * n + [0] * (
            batch.batch.input_ids.shape[1] - n
        )
        assert batch.positions[model.family.stacks[0].name][row] == cloze.position
        if batch.decoder is not None:
            last = batch.positions["decoder"][row]
            assert batch.decoder.input_ids[row, : last + 1].tolist() == list(cloze.decoder_ids)
    assert (batch.decoder is not None) == (name == "t5")
    assert batch.targets.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("name", "prompt", "target", "message"),
    [
        ("bert", "Born there.", "Dublin", "has 0 masks; it needs one"),
        ("bert", "[MASK] and [MASK].", "Dublin", "has 2 masks"),
        ("bert", "Born in [MASK].", "日", r"not in the vocabulary of .* \['\[UNK\]'\]"),
        ("t5", "Born there.", "Dublin", "has 0 places"),
        ("t5", "[MASK] and [MASK].", "Dublin", "has 2 places"),
        ("demo", "", " Dublin", "prompt is empty"),
        ("demo", "[MASK]", "Dublin", "prompt is empty"),
        ("demo", "Born in", "", "has no tokens"),
        ("demo", "Born in", [], "target is empty"),
        ("demo", "Born in", 1_000_000, "out of range"),
        ("demo", "Born in", [[1, 2]], "text or token ids"),
        ("demo", "Born in " * 200, " Dublin", "reads at most 128"),
    ],
)
def test_errors_say_what_to_do(name: str, prompt: str, target: Any, message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        clozes(load(name), prompt, target)


def test_an_unknown_answer_names_the_spelling_that_is_known() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, "[MASK]": 1, "in": 2, "paris": 3}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", mask_token="[MASK]"
    )
    model = pyengine.load((load("bert").hf, tokenizer))
    with pytest.raises(PyengineError, match=r"\['\[UNK\]'\]; did you mean 'paris'\?"):
        clozes(model, "in [MASK]", "Paris")


def test_a_missing_space_is_pointed_out() -> None:
    model = load("demo")
    with pytest.warns(UserWarning, match=r"' Dublin', it is one"):
        assert len(clozes(model, "Born in", "Dublin")) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clozes(model, "Born in", " Dublin")
        clozes(model, "Born in [MASK].", "Dublin")


def test_texts_need_a_tokenizer() -> None:
    model = pyengine.load((load("demo").hf, None))
    assert clozes(model, [5], 6) == [Cloze((5,), 0, 6)]
    with pytest.raises(PyengineError, match="has no tokenizer"):
        clozes(model, "text", 6)


@pytest.mark.parametrize(
    ("prompt", "ends"),
    [("in [MASK]", True), ("in [MASK] . !", True), ("[MASK], yes", False), ("in", False)],
)
def test_what_a_causal_model_can_be_asked(prompt: str, ends: bool) -> None:
    assert ends_in_mask(prompt) == ends

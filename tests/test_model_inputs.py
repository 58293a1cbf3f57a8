"""What Hugging Face's forward is given: every form of input, padding, masks and positions."""

from typing import Any

import numpy as np
import pytest
import torch
from input_cases import ABSOLUTE, CAUSAL, TRAINED, kwargs, reading, refused, tiny, trained
from tiny_models import FAMILIES
from transformers import BatchEncoding

from pyengine.model_inputs import model_inputs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "inputs",
    [
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        [np.int32(1), np.int64(2), 3],
        [[1, 2, 3]],
        [torch.tensor([1, 2, 3])],
        torch.tensor([1, 2, 3]),
        torch.tensor([[1, 2, 3]], dtype=torch.int32),
        np.array([1, 2, 3], np.uint16),
        np.array([[1, 2, 3]], np.uint32),
        {"input_ids": [1, 2, 3]},
        {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": None},
        BatchEncoding({"input_ids": [[1, 2, 3]]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ids_come_in_many_forms_and_are_fed_as_given(family: str, inputs: Any) -> None:
    made = kwargs(tiny(family), inputs, decoder=False)
    assert made == {"input_ids": [[1, 2, 3]]}


@pytest.mark.parametrize("name", TRAINED)
def test_texts_are_read_as_the_tokenizer_says(name: str) -> None:
    model = trained(name)
    tokenizer: Any = model.tokenizer
    texts = ["A man", "Born in the city of Dublin"]
    expected = tokenizer(texts)["input_ids"]
    assert kwargs(model, texts[0], decoder=False) == {"input_ids": expected[:1]}
    assert kwargs(model, texts[1:], decoder=False) == {"input_ids": expected[1:]}
    made = model_inputs(model, texts, decoder=False)
    assert made.mask is not None and made.rows == [0, 1] and made.n_rows == 2
    for ids, mask, want in zip(made.kwargs["input_ids"], made.mask, expected, strict=True):
        assert ids[mask.bool()].tolist() == want


def test_special_tokens_are_for_encoders_only() -> None:
    assert kwargs(reading("bert", "<s>", "</s>"), "w0 w1")["input_ids"] == [[2, 4, 5, 3]]
    assert kwargs(reading("gpt2", "<s>", "</s>"), "w0 w1")["input_ids"] == [[4, 5]]
    assert kwargs(reading("gpt2"), "<s> w0 w1")["input_ids"] == [[2, 4, 5]]
    made = kwargs(reading("t5", after="</s>"), "w0 w1")
    assert made == {"input_ids": [[4, 5, 3]], "decoder_input_ids": [[0, 4, 5]]}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_padded_on_the_side_asked_for(family: str) -> None:
    model = reading(family)
    right = kwargs(model, [[5, 6, 7], [8]], decoder=False)
    assert right == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
    }
    left = kwargs(model, [[5, 6, 7], [8]], padding="left", decoder=False)
    positions = left.pop("position_ids", None)
    assert left == {
        "input_ids": [[5, 6, 7], [0, 0, 8]],
        "attention_mask": [[1, 1, 1], [0, 0, 1]],
    }
    assert positions == ([[0, 1, 2], [0, 0, 0]] if family in ABSOLUTE else None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.float32])
def test_a_given_mask_is_kept(family: str, kind: torch.dtype) -> None:
    ids, rows = torch.tensor([[1, 2, 3], [4, 5, 6]]), [[1, 1, 1], [1, 1, 0]]
    mask = torch.tensor(rows).to(kind)
    made = kwargs(tiny(family), {"input_ids": ids, "attention_mask": mask}, decoder=False)
    assert made == {"input_ids": ids.tolist(), "attention_mask": rows}
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert kwargs(tiny(family), whole, decoder=False)["attention_mask"] == [[1] * 3] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_are_made_where_padding_precedes_the_first_token(family: str) -> None:
    model, ids = tiny(family), [[1, 2, 3, 4, 5]]
    for mask, positions in (
        ([0, 0, 1, 1, 1], [0, 0, 0, 1, 2]),
        ([0, 1, 0, 1, 1], [0, 0, 1, 2, 3]),
        ([1, 0, 1, 1, 0], None),  # a token hidden within: as plain Hugging Face counts
        ([1, 1, 1, 1, 0], None),
        ([1, 1, 1, 1, 1], None),
    ):
        made = kwargs(model, {"input_ids": ids, "attention_mask": [mask]}, decoder=False)
        expected = [positions] if positions and family in ABSOLUTE else None
        assert made.get("position_ids") == expected


@pytest.mark.parametrize("family", ABSOLUTE)
def test_given_positions_are_kept(family: str) -> None:
    given = {"input_ids": [[1, 2, 3]], "attention_mask": [[0, 1, 1]], "position_ids": [[9, 3, 4]]}
    assert kwargs(tiny(family), given) == given


def test_a_mapping_of_ragged_lists_is_padded_like_its_ids() -> None:
    given = {
        "input_ids": [[1, 2, 3], [4]],
        "attention_mask": [[1, 1, 1], [1]],
        "token_type_ids": [[0, 1, 1], [1]],
        "position_ids": [[3, 4, 5], [6]],
        "labels": [[7, -100, 8], [9]],
    }
    assert kwargs(tiny("bert"), given, padding="left", loss=True) == {
        "input_ids": [[1, 2, 3], [0, 0, 4]],
        "attention_mask": [[1, 1, 1], [0, 0, 1]],
        "token_type_ids": [[0, 1, 1], [0, 0, 1]],
        "position_ids": [[3, 4, 5], [0, 0, 6]],
        "labels": [[7, -100, 8], [-100, -100, 9]],
    }


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_tokenizer_returns_is_read(name: str) -> None:
    model = trained(name)
    tokenizer: Any = model.tokenizer
    encoded = tokenizer("A man", return_tensors="pt")
    made = model_inputs(model, encoded, decoder=False).kwargs
    assert set(made) == set(encoded)
    assert all(torch.equal(made[key], encoded[key]) for key in made)


def test_long_texts_become_windows_with_special_tokens_of_their_own() -> None:
    words = " ".join(f"w{i}" for i in range(70))
    made = model_inputs(reading("bert", "<s>", "</s>"), ["w1 w2", words, "w3"], overlong="window")
    assert made.rows == [0, 1, 1, 1, 2] and made.mask is not None
    rows = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(made.kwargs["input_ids"], made.mask, strict=True)
    ]
    assert all(row[0] == 2 and row[-1] == 3 for row in rows)
    assert [len(row) for row in rows] == [4, 32, 32, 12, 3]
    assert [token for row in rows[1:4] for token in row[1:-1]] == list(range(4, 74))


@pytest.mark.parametrize("family", CAUSAL)
def test_long_lists_of_ids_become_windows(family: str) -> None:
    ids = [i % 90 for i in range(65)]
    made = model_inputs(tiny(family), [[1, 2], ids], overlong="window")
    assert made.rows == [0, 1, 1, 1]
    assert made.kwargs["input_ids"][1].tolist() == ids[:32]
    assert made.kwargs["input_ids"][3, 0] == ids[64] and made.mask is not None
    assert made.mask.sum(1).tolist() == [2, 32, 32, 1]


def test_t5_reads_any_length() -> None:
    made = model_inputs(tiny("t5", n_positions=8), [list(range(40))], overlong="window")
    assert made.rows == [0] and made.kwargs["input_ids"].shape == (1, 40)


@pytest.mark.parametrize("family", ABSOLUTE)
def test_what_is_too_long_is_refused(family: str) -> None:
    model, ids = tiny(family), torch.arange(33)
    refused(model, [[1], ids.tolist()], r"input 1 has 33 tokens.* at most 32: overlong='window")
    for inputs in (ids, ids.numpy(), {"input_ids": [ids.tolist()]}):
        refused(model, inputs, r"input 0 has 33 tokens.* at most 32: cut it", overlong="window")
    assert kwargs(model, ids[:32])["input_ids"] == [list(range(32))]


def test_special_tokens_count_as_length() -> None:
    model = reading("bert", "<s>", "</s>")
    refused(model, " ".join(["w1"] * 31), "has 33 tokens, special ones included")
    assert len(kwargs(model, " ".join(["w1"] * 30))["input_ids"][0]) == 32

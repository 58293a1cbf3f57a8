"""What T5's decoder is given, and the labels."""

from typing import Any

import pytest
import torch
import transformers
from input_cases import ROWS, T5, kwargs, reading, refused, tiny
from tiny_models import tiny_model
from transformers import BatchEncoding

import pyengine
from pyengine.model_inputs import model_inputs


@pytest.mark.parametrize("family", T5)
def test_without_target_the_decoder_reads_the_input_shifted_right(family: str) -> None:
    model = tiny(family)
    made = kwargs(model, ROWS, padding="left")
    assert made["attention_mask"][1] == [0, 0, 0, 0, 1, 1, 1]
    assert made["decoder_input_ids"][0] == [0, *ROWS[0]]
    assert made["decoder_input_ids"][1] == [0, *ROWS[1], 0, 0, 0, 0]
    assert made["decoder_attention_mask"][2] == [1] * 6 + [0] * 2
    padded = {"input_ids": [[9, 9, 1, 2]], "attention_mask": [[0, 0, 1, 1]]}
    assert kwargs(model, padded)["decoder_input_ids"] == [[0, 1, 2]]
    assert "decoder_attention_mask" not in kwargs(model, [1, 2])


def test_a_target_is_taught_shifted_right() -> None:
    model = reading("t5", after="</s>")
    texts = kwargs(model, ["w0", "w1 w2"], target=["w3 w4", "w5"], loss=True, padding="left")
    assert texts == {
        "input_ids": [[0, 4, 3], [5, 6, 3]],
        "attention_mask": [[0, 1, 1], [1, 1, 1]],
        "decoder_input_ids": [[0, 7, 8], [0, 9, 0]],
        "decoder_attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[7, 8, 3], [9, 3, -100]],
    }
    ids = [[7, 8, 3], [9, 3]]
    without = {name: rows for name, rows in texts.items() if name != "labels"}
    for target in (
        ["w3 w4", "w5"],
        ids,
        {"input_ids": ids},
        BatchEncoding(
            {"input_ids": [[7, 8, 3], [9, 3, 0]], "attention_mask": [[1] * 3, [1, 1, 0]]}
        ),
        {"input_ids": torch.tensor([[7, 8, 3], [0, 9, 3]]), "attention_mask": [[1] * 3, [0, 1, 1]]},
    ):
        assert kwargs(model, ["w0", "w1 w2"], target=target, padding="left") == without
    one = kwargs(model, "w0", target=torch.tensor([7, 8]), loss=True)
    assert one["labels"] == [[7, 8]] and one["decoder_input_ids"] == [[0, 7]]
    assert "decoder_attention_mask" not in one


def test_labels_are_shifted_as_hugging_face_does() -> None:
    model = tiny("t5")
    labels = torch.tensor([[7, 8, 1], [9, -100, -100]])
    given = {"input_ids": [[4, 5], [6, 7]], "labels": labels}
    made = model_inputs(model, given, loss=True).kwargs
    hf: Any = model.hf
    assert torch.equal(made["decoder_input_ids"], hf._shift_right(labels))
    assert torch.equal(made["labels"], labels) and "decoder_attention_mask" not in made
    with torch.no_grad():
        ids = torch.tensor(given["input_ids"])
        assert torch.equal(hf(**made).loss, hf(input_ids=ids, labels=labels).loss)
    assert "labels" not in model_inputs(model, given).kwargs


def test_what_is_given_of_the_decoder_is_passed_on() -> None:
    given = {
        "input_ids": [[4, 5], [6, 7]],
        "decoder_input_ids": [[0, 7, 8], [9, 0, 5]],
        "decoder_attention_mask": [[1, 1, 1], [0, 1, 1]],
        "labels": [[7, 8, 1], [-100, 5, 1]],
    }
    assert kwargs(tiny("t5"), given, loss=True) == given
    assert kwargs(tiny("t5"), given, decoder=False) == {"input_ids": given["input_ids"]}


def test_an_encoder_alone_has_no_decoder_to_feed() -> None:
    encoder = transformers.T5EncoderModel(tiny_model("t5").config)
    model = pyengine.load((encoder, None))
    assert kwargs(model, [1, 2]) == {"input_ids": [[1, 2]]}
    refused(model, [1, 2], "has none", target=[3])
    refused(model, [1, 2], "needs its decoder", loss=True)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("", "target: text 0, '', has no tokens"),
        (["w1", "w2"], "target has 2 rows for 1 inputs"),
        ([97], "target holds 97 in row 0"),
        ([7, -100], "target holds -100"),
        (torch.tensor([1.0]), "not float32"),
        ({"input_ids": [1], "labels": [1]}, "target has labels; known are"),
        ({"attention_mask": [1]}, "target must be .* not NoneType"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "the target's attention_mask has 1 entries"),
    ],
)
def test_bad_targets_are_refused(target: Any, match: str) -> None:
    refused(reading("t5"), "w1 w2", match, target=target)


def test_contradictions_about_the_decoder_are_refused() -> None:
    model, ids = tiny("t5"), {"input_ids": [[1, 2]]}
    refused(model, ids | {"labels": [[1]]}, "target= or the inputs' labels, not both", target=[1])
    refused(model, ids | {"decoder_attention_mask": [[1]]}, "needs decoder_input_ids or labels")
    refused(model, ids | {"labels": [[1], [2]]}, "labels has 2 rows for 1 inputs")
    both = ids | {"decoder_input_ids": [[0, 1]], "labels": [[1]]}
    refused(model, both, "row 0 of labels has 1 entries, of decoder_input_ids 2")

"""Model inputs that are refused, each with one line."""

from typing import Any

import pytest
import torch
from input_cases import ABSOLUTE, BERTS, T5, kwargs, reading, refused, tiny
from tiny_models import FAMILIES, VOCAB


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ("", r"text 0, '', has no tokens"),
        (["w1", "  "], r"text 1, '  ', has no tokens"),
        ([], "row 0 of inputs is empty"),
        ([[1], []], "row 1 of inputs is empty"),
        (torch.zeros(0, 3, dtype=torch.int64), "no rows"),
        (torch.zeros(2, 0, dtype=torch.int64), "row 0 of inputs is empty"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), r"shape \(1, 2, 3\); expected \[T\] or \[B, T\]"),
        (torch.tensor(3), r"shape \(\)"),
        ([[[1, 2]]], r"row 0 of inputs has shape \(1, 2\)"),
        ([1, [2]], r"row 0 of inputs has shape \(\)"),
        (torch.tensor([1.0, 2.0]), "whole numbers.* not float32"),
        ([1.0, 2.0], "not float64"),
        (torch.tensor([True]), "not bool"),
        (["w1", 3], "must hold numbers, not str 'w1'"),
        ([1, None], "must hold numbers, not list"),
        ([2**70], "must hold numbers"),
        (7, "not int 7"),
        (None, "not NoneType None"),
        ([[1, 2], [3, 97]], rf"holds 97 in row 1 at position 1; .* {VOCAB} tokens: 0 to 96"),
        ([1, -1], r"holds -1 in row 0 at position 1"),
        ({"input_ids": [1, -100]}, r"input_ids holds -100 in row 0 at position 1"),
        ({}, "lack input_ids"),
        ({"input_ids": [1], "inputs_embeds": [1]}, "'inputs_embeds'; known are: input_ids, att"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "row 0 of attention_mask has 1 .* 2"),
        ({"input_ids": [[1]] * 2, "attention_mask": [[1]]}, "attention_mask has 1 rows.* 2"),
        ({"input_ids": [1, 2], "attention_mask": [0, 2]}, "holds 2 in row 0.* 1 at tokens"),
        ({"input_ids": [1, 2], "attention_mask": [0, -1e9]}, "holds -1000000000.0 in row 0"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, "hides all tokens of row 0"),
        (
            {"input_ids": [[1, 2]], "attention_mask": torch.ones(1, 1, 2, 2, dtype=torch.bool)},
            r"shape \(1, 1, 2, 2\).*\(eager attention adds a mask",
        ),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_bad_inputs_are_refused(family: str, inputs: Any, match: str) -> None:
    refused(reading(family), inputs, match)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_reads_only_what_it_has(family: str) -> None:
    model, types = tiny(family), {"input_ids": [1, 2], "token_type_ids": [0, 1]}
    positions = {"input_ids": [1, 2], "position_ids": [0, 32]}
    decoder = {"input_ids": [1, 2], "decoder_input_ids": [0, 97]}
    if family in BERTS:
        assert kwargs(model, types)["token_type_ids"] == [[0, 1]]
        refused(model, types | {"token_type_ids": [0, 2]}, "has 2 token types: 0 to 1")
        refused(model, types | {"token_type_ids": [0]}, "token_type_ids has 1 entries")
    else:
        refused(model, types, "'token_type_ids'.* return_token_type_ids=False")
    wrong = "position_ids holds 32.* has 32 positions: 0 to 31"
    refused(model, positions, wrong if family in ABSOLUTE else "does not read 'position_ids'")
    wrong = "decoder_input_ids holds 97" if family in T5 else "does not read 'decoder_input_ids'"
    refused(model, decoder, wrong)
    if family not in T5:
        refused(model, [1, 2], "target is for an encoder-decoder", target=[3])
        labels = {"input_ids": [1, 2], "labels": [1, 97]}
        refused(model, labels, "labels holds 97.* 0 to 96, or -100")
        refused(model, labels | {"labels": [1]}, "labels has 1 entries")


def test_texts_need_a_tokenizer_and_options_are_checked() -> None:
    refused(tiny("gpt2"), "text", "has no tokenizer to read texts; give token ids")
    refused(tiny("gpt2"), [1], "unknown padding 'middle'", padding="middle")
    refused(tiny("gpt2"), [1], "unknown overlong 'cut'", overlong="cut")

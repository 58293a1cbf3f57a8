"""Model inputs through Hugging Face's own forward: losses and logits."""

from typing import Any

import pytest
import torch
from input_cases import ABSOLUTE, BERTS, CAUSAL, MASK, ROWS, T5, kwargs, refused, tiny
from tiny_models import FAMILIES, supports, tiny_model

import pyengine
from pyengine.model_inputs import ModelInputs, model_inputs


@pytest.mark.parametrize("family", CAUSAL)
def test_a_causal_models_labels_are_what_a_token_precedes(family: str) -> None:
    model = tiny(family)
    assert kwargs(model, [1, 2, 3], loss=True)["labels"] == [[1, 2, 3]]
    right = kwargs(model, [[1, 2, 3], [4, 5]], loss=True)
    assert right["labels"] == [[1, 2, 3], [4, 5, -100]]
    left = kwargs(model, [[1, 2, 3], [4, 5]], loss=True, padding="left")
    assert left["labels"] == [[1, 2, 3], [-100, -100, 5]]
    given = {"input_ids": [[1, 2, 3]], "labels": [[-100, 7, 8]]}
    assert kwargs(model, given, loss=True) == given
    assert kwargs(model, given) == {"input_ids": [[1, 2, 3]]}


@torch.no_grad()
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batchs_loss_is_the_mean_over_its_tokens(family: str, padding: str) -> None:
    model = tiny(family)
    target = [[20, 21], [22, 23, 24, 1], [25]]

    def loss(rows: list[int]) -> tuple[float, int]:
        chosen: Any = [ROWS[row] for row in rows]
        options: dict[str, Any] = {"padding": padding, "loss": True}
        if family in BERTS:
            chosen = {"input_ids": chosen, "labels": [[30, -100, *ROWS[row][2:]] for row in rows]}
        elif family in T5:
            options["target"] = [target[row] for row in rows]
        made = model_inputs(model, chosen, **options).kwargs
        labels = made["labels"][:, 1:] if family in CAUSAL else made["labels"]
        return float(model.hf(**made).loss), int((labels != -100).sum())

    alone = [loss([row]) for row in range(3)]
    mean = sum(value * n for value, n in alone) / sum(n for _, n in alone)
    together, n = loss([0, 1, 2])
    assert n == sum(n for _, n in alone)
    assert together == pytest.approx(mean, abs=1e-5)


def test_a_loss_without_labels_is_refused() -> None:
    refused(tiny("bert"), [1, 2], "needs labels beside input_ids", loss=True)
    refused(tiny("t5"), [1, 2], "needs target=, or labels", loss=True)
    refused(tiny("t5"), [1, 2], "needs its decoder", loss=True, decoder=False)
    nothing = "no token to score"
    refused(tiny("gpt2"), [[1], [2]], nothing, loss=True)
    refused(tiny("bert"), {"input_ids": [1, 2], "labels": [-100, -100]}, nothing, loss=True)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_row_has_the_logits_of_the_row_alone(
    family: str, attention: str, padding: str
) -> None:
    hf = tiny_model(family)
    if supports(family, attention):
        hf.set_attn_implementation(attention)
    model = pyengine.load((hf, None))
    made: ModelInputs = model_inputs(model, ROWS, padding=padding)
    together = hf(**made.kwargs).logits
    mask = made.kwargs.get("decoder_attention_mask", made.mask)
    assert mask is not None
    for row, ids in enumerate(ROWS):
        alone = hf(**model_inputs(model, ids).kwargs).logits[0]
        torch.testing.assert_close(together[row][mask[row].bool()], alone, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ABSOLUTE)
def test_a_bare_left_padded_forward_is_wrong(family: str) -> None:
    model = tiny(family)
    made = model_inputs(model, ROWS, padding="left").kwargs
    bare = {name: made[name] for name in ("input_ids", "attention_mask")}
    difference = (model.hf(**bare).logits - model.hf(**made).logits)[1, -3:].abs().max()
    assert difference > 0.1


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_right_padding_keeps_the_bits_of_a_plain_forward(family: str) -> None:
    model = tiny(family)
    ids = torch.tensor([row + [0] * (7 - len(row)) for row in ROWS])
    plain: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.tensor(MASK)}
    if family in T5:
        made = model_inputs(model, ROWS, target=[[7], [8], [9]]).kwargs
        plain["labels"] = torch.tensor([[7], [8], [9]])
    else:
        made = model_inputs(model, ROWS).kwargs
    assert torch.equal(model.hf(**made).logits, model.hf(**plain).logits)

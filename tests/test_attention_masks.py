"""Masks made without looking at them: the same bits as transformers' own."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, supports, tiny_model
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

import pyengine
from pyengine import attention_masks
from pyengine.batches import Batch
from pyengine.forward import Forward
from pyengine.models import Model

LENGTHS = [3, 9, 6]
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
EVERY_WAY = pytest.mark.parametrize("how", attention_masks.GIVEN)


def model_with(family: str, how: str) -> Model:
    if not supports(family, how):
        pytest.skip("transformers has no such attention")
    return pyengine.load((tiny_model(family, attn_implementation=how), None))


def batch(lengths: list[int], vocab: int = 90) -> Batch:
    longest = max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(5, vocab, mask.shape) * mask
    numbers = np.where(mask > 0, np.arange(mask.size).reshape(mask.shape), -1)
    units = np.arange(len(lengths))
    return Batch(ids, mask, numbers, units, np.array(lengths, np.int32), 0, 0)


def by_transformers(model: Model, read: Batch) -> torch.Tensor:
    """Return the hidden states of plain Hugging Face, padding hidden."""
    body: Any = model.body
    ids, mask = torch.from_numpy(read.input_ids), torch.from_numpy(read.attention_mask)
    with torch.inference_mode():
        if not model.family.encoder_decoder:
            hidden: torch.Tensor = body(input_ids=ids, attention_mask=mask)[0]
            return hidden
        hidden = body.decoder(
            input_ids=torch.from_numpy(read.shifted(0).input_ids),
            encoder_hidden_states=body.encoder(input_ids=ids, attention_mask=mask)[0],
            encoder_attention_mask=mask,
        )[0]
        return hidden


@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4]], ids=["padded", "full"])
@EVERY_WAY
@EVERY_FAMILY
def test_hidden_states_are_those_of_transformers(family: str, how: str, lengths: list[int]) -> None:
    model = model_with(family, how)
    assert model.config._attn_implementation == how
    read, decoder = batch(lengths), None
    if model.family.encoder_decoder:
        decoder = read.shifted(0)
    with torch.inference_mode():
        found = Forward(model).run(read, decoder)
    expected, seen = by_transformers(model, read), (decoder or read).attention_mask > 0
    if model.family.causal and how == "sdpa":
        # Without padding to hide, another kernel computes the same.
        assert torch.allclose(found[seen], expected[seen], atol=1e-5)
        unpadded = {"input_ids": torch.from_numpy(read.input_ids)}
        with torch.inference_mode():
            expected = model.body(**unpadded)[0]
    assert torch.equal(found[seen], expected[seen])


@EVERY_WAY
@EVERY_FAMILY
def test_the_callers_model_is_as_before(family: str, how: str) -> None:
    model = model_with(family, how)
    before = by_transformers(model, batch(LENGTHS))
    read = batch(LENGTHS)
    forward = Forward(model)
    forward.run(read, read.shifted(0) if model.family.encoder_decoder else None)
    assert torch.equal(by_transformers(model, batch(LENGTHS)), before)
    for body in (model.body, forward.body):
        configs: list[Any] = [vars(m)["config"] for m in body.modules() if "config" in vars(m)]
        assert configs and {config._attn_implementation for config in configs} == {how}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@EVERY_WAY
@EVERY_FAMILY
def test_masks_are_those_of_transformers(family: str, how: str, dtype: torch.dtype) -> None:
    body: Any = model_with(family, how).body.to(dtype)
    stack = getattr(body, "encoder", body) if family.startswith("t5") else body
    padding = torch.from_numpy(batch(LENGTHS).attention_mask)
    for n_queries in (padding.shape[1], 4):  # as of T5's decoder, whose inputs are shorter
        ids = torch.zeros(len(LENGTHS), n_queries, dtype=torch.int64)
        given = {"config": stack.config, "inputs_embeds": torch.empty(*ids.shape, 0, dtype=dtype)}
        expected = create_bidirectional_mask(attention_mask=padding, **given)
        assert_same(attention_masks.padding_mask(stack, ids, padding), expected)
        expected = create_causal_mask(attention_mask=None, past_key_values=None, **given)
        assert_same(attention_masks.causal_mask(stack, ids), expected)
        expected = create_bidirectional_mask(attention_mask=None, **given)
        assert_same(attention_masks.padding_mask(stack, ids, None), expected)


def assert_same(found: torch.Tensor | None, expected: Any) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    assert found.dtype == expected.dtype
    assert torch.equal(found.expand_as(expected), expected)


def test_configuration_returns_after_an_error() -> None:
    body = tiny_model("gpt2").transformer
    own = body.config
    with pytest.raises(KeyError), attention_masks.masks_given(body):
        assert body.config._attn_implementation == "masks given"
        raise KeyError
    assert body.config is own

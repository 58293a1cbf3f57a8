"""Interventions while a model generates: each step's newest position, with and without a cache."""

from typing import Any

import pytest
import torch
from attribution_cases import tiny
from intervention_cases import NEURONS, by_hand, inputs
from torch import Tensor

from pyengine.interventions import enhance, suppress

STEPS = 6
LEFT_PADDED = {
    "input_ids": torch.tensor([[0, 0, 11, 12], [13, 14, 15, 16]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
}


def generated(hf: Any, given: dict[str, Tensor], **settings: Any) -> Tensor:
    """Return the logits of every step, [rows, steps, vocabulary], which `generate` rounds."""
    out = hf.generate(
        **given,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        **settings,
    )
    return torch.stack(out.logits, 1)


@torch.no_grad()
def cached_loop(hf: Any, factor: float) -> Tensor:
    """Generate step by step with a cache that keeps what was changed."""
    ids, mask, cache = LEFT_PADDED["input_ids"], LEFT_PADDED["attention_mask"], None
    found = []
    for _ in range(STEPS):
        last = ids.shape[1] - 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with by_hand(hf, NEURONS, factor, [[(0, last), (1, last)]]):
            out = hf(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        found.append(out.logits[:, -1])
        cache, ids = out.past_key_values, out.logits[:, -1].argmax(1)[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
    return torch.stack(found, 1).float()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_a_cache_keeps_what_each_step_changed(family: str, factor: float) -> None:
    model = tiny(family, eos_token_id=None)
    wanted = cached_loop(model.hf, factor)
    assert not torch.allclose(wanted, cached_loop(model.hf, 1.0))
    with enhance(model, NEURONS, factor):
        torch.testing.assert_close(generated(model.hf, LEFT_PADDED), wanted, rtol=1e-5, atol=1e-5)
    plain = generated(model.hf, LEFT_PADDED)
    torch.testing.assert_close(plain, cached_loop(model.hf, 1.0), rtol=1e-5, atol=1e-5)


def test_a_static_cache_is_one_as_well() -> None:
    model = tiny("gpt2", eos_token_id=None)
    with suppress(model, NEURONS):
        found = generated(model.hf, LEFT_PADDED, cache_implementation="static")
    torch.testing.assert_close(found, cached_loop(model.hf, 0.0), rtol=1e-5, atol=1e-5)


def test_edge_case_2_without_a_cache_only_the_newest_position_is_changed() -> None:
    """As the package does it, which reads the whole text at every step."""
    model = tiny("gpt2", eos_token_id=None)
    ids = torch.tensor([[13, 14, 15]])
    wanted, text = [], ids
    with torch.no_grad():
        for _ in range(STEPS):
            with by_hand(model.hf, NEURONS, 0.0, [[(0, text.shape[1] - 1)]]):
                wanted.append(model.hf(text).logits[:, -1])
            text = torch.cat([text, wanted[-1].argmax(1)[:, None]], 1)
    with suppress(model, NEURONS):
        found = generated(model.hf, {"input_ids": ids}, use_cache=False)
        cached = generated(model.hf, {"input_ids": ids}, use_cache=True)
    torch.testing.assert_close(found, torch.stack(wanted, 1).float(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(cached, found)


@pytest.mark.parametrize("family", ["t5", "t5_gated"])
def test_t5_sentinel_and_newest_token(family: str) -> None:
    # `generate` makes a cache of as many layers as the encoder has.
    model = tiny(family, eos_token_id=None, num_decoder_layers=2)
    given, at = inputs(model)
    del given["decoder_input_ids"]
    first = torch.zeros(3, 1, dtype=torch.int64)
    wanted, read, cache = [], first, None
    with torch.no_grad(), by_hand(model.hf, NEURONS, 2.0, [at[0], [(0, 0), (1, 0), (2, 0)]]):
        encoded = model.hf.get_encoder()(**given)
        for _ in range(STEPS):
            out = model.hf(
                encoder_outputs=encoded,
                attention_mask=given["attention_mask"],
                decoder_input_ids=read,
                past_key_values=cache,
                use_cache=True,
            )
            wanted.append(out.logits[:, -1])
            cache, read = out.past_key_values, out.logits[:, -1].argmax(1)[:, None]
    plain = generated(model.hf, given)
    with enhance(model, NEURONS):
        found = generated(model.hf, given)
    torch.testing.assert_close(found, torch.stack(wanted, 1).float(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, plain)

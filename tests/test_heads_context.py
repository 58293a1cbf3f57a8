"""Contexts of heads: probabilities × values, recomputed by hand in float64, of every family."""

from typing import Any

import pytest
import torch
from attribution_brute_force import stay_in_float64
from heads_context_cases import (
    LENGTHS,
    batch,
    contexts,
    every_family,
    mask_of,
    model_of,
    row_alone,
    values_of,
)
from site_oracle import site_oracle

import pyengine
from pyengine.heads.places import BLOCK, FFN, HEAD, NEURONS, places_of

N_HEADS = {"gpt_neo": 2, "bert": 2, "t5": 3, "t5_gated": 3}  # elsewhere 4
CAUSAL = ("gpt2", "gpt_neo", "openai-gpt")
CLOSE = 1e-9

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-Neo's attention and T5's norm round to float32, even in a float64 model."""
    stay_in_float64(monkeypatch)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", ["eager", "sdpa"])
@every_family
def test_contexts_are_probabilities_times_values(family: str, how: str, side: str) -> None:
    """Padding, T5's relative bias, GPT-Neo's window, causal masks: all in the probabilities."""
    model = model_of(family, how)
    inputs = batch(model, side)
    by_hand = site_oracle(model.hf, inputs)
    places = contexts(model)
    found = values_of(model, places, inputs)
    for place in places:
        attention = place.site.name.removesuffix(".hook_z")
        pattern, value = by_hand[f"{attention}.hook_pattern"], by_hand[f"{attention}.hook_v"]
        expected = torch.einsum("bhts,bshd->bthd", pattern, value)
        real = mask_of(place, inputs)
        z = found[place.site.name]
        assert z.dtype == torch.float64 and z.shape == expected.shape
        assert z.shape[2] == place.n_parts == N_HEADS.get(family, 4)
        torch.testing.assert_close(z[real], expected[real], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@every_family
def test_neither_padding_nor_company_matters(family: str, side: str) -> None:
    model = model_of(family)
    inputs = batch(model, side)
    places = places_of(model, (BLOCK, FFN, NEURONS)) + contexts(model)
    together = values_of(model, places, inputs)
    for row in range(len(LENGTHS)):
        alone = values_of(model, places, row_alone(inputs, row))
        for place in places:
            name = place.site.name
            mine = together[name][row][mask_of(place, inputs)[row]]
            torch.testing.assert_close(mine, alone[name][0], rtol=CLOSE, atol=CLOSE)


def heard(model: pyengine.Model) -> list[int]:
    """Return the positions whose contexts in the first block move with the token at 3."""
    ids = torch.arange(4, 14)[None]
    changed = ids.clone()
    changed[0, 3] = 50
    more = {"decoder_input_ids": ids} if model.family.encoder_decoder else {}
    place = places_of(model, (HEAD,))[:1]
    name = place[0].site.name
    a, b = (values_of(model, place, {"input_ids": x} | more)[name] for x in (ids, changed))
    moved: list[int] = ((a - b).abs().amax((0, 2, 3)) > CLOSE).nonzero().flatten().tolist()
    return moved


@every_family
def test_causal_masks_hide_what_comes_after(family: str) -> None:
    assert heard(model_of(family)) == [*range(3 if family in CAUSAL else 0, 10)]


def test_a_local_window_hides_what_is_far_before() -> None:
    local = model_of("gpt_neo", attention_types=[[["local"], 4]], window_size=4)
    assert heard(local) == [3, 4, 5, 6]


@every_family
def test_a_block_output_cut_into_heads_is_something_else(family: str) -> None:
    """The likely mistakes of a tap: after the output projection, the block's output, its input."""
    model = model_of(family)
    inputs = batch(model)
    places = contexts(model)
    cache = pyengine.run_with_cache(model, inputs, return_type=None)[1]
    for place in places:
        block, _, attention = place.site.name.removesuffix(".hook_z").rpartition(".")
        after = "hook_cross_attn_out" if attention == "cross_attn" else "hook_attn_out"
        out = f"{block}.hook_normalized_resid_post"
        wrong = [f"{block}.{after}", out if out in cache else f"{block}.hook_resid_post"]
        z, real = cache[place.site.name], mask_of(place, inputs)
        for name in (*wrong, f"{block}.hook_resid_pre"):
            flat = cache[name]
            assert flat.shape[:2] == z.shape[:2]
            if flat.shape[2] != z.shape[2] * z.shape[3]:  # T5's heads are narrower than its stream
                flat = flat[..., : z.shape[2] * z.shape[3]]
            cut = flat.unflatten(-1, z.shape[2:])
            distance = (cut - z)[real].norm() / z[real].norm()
            assert distance > 0.5, name
        # And heads differ from each other, in their order.
        turned = z.roll(1, 2)
        assert (turned - z)[real].norm() / z[real].norm() > 0.5


@every_family
def test_heads_write_what_the_attention_adds(family: str) -> None:
    """The output projection of the contexts, head by head, is the attention's output."""
    model = model_of(family)
    inputs = batch(model)
    cache = pyengine.run_with_cache(model, inputs, return_type=None)[1]
    for place in contexts(model):
        module: Any = model.body.get_submodule(place.site.module)
        weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.t()
        z = cache[place.site.name]
        rows = weight.detach().unflatten(0, (place.n_parts, -1))  # [heads, d_head, d_model]
        written = torch.einsum("bthd,hdm->btm", z, rows)
        written = written if module.bias is None else written + module.bias.detach()
        block, _, attention = place.site.name.removesuffix(".hook_z").rpartition(".")
        after = "hook_cross_attn_out" if attention == "cross_attn" else "hook_attn_out"
        torch.testing.assert_close(written, cache[f"{block}.{after}"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 5])
def test_heads_that_together_are_not_as_wide_as_the_stream(n_heads: int) -> None:
    """T5's heads may be narrower or wider together: 7 dimensions each of 20."""
    model = model_of("t5", num_heads=n_heads, d_kv=7)
    inputs = batch(model)
    places = contexts(model)
    by_hand, found = site_oracle(model.hf, inputs), values_of(model, places, inputs)
    for place in places:
        real = mask_of(place, inputs)
        z = found[place.site.name]
        assert z.shape[2:] == (n_heads, 7) and place.n_parts == n_heads
        torch.testing.assert_close(z[real], by_hand[place.site.name][real], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("gpt2", {"n_head": 3}, "must be divisible"),
        ("gpt_neo", {"num_heads": 3}, "must be divisible"),
        ("openai-gpt", {"n_head": 3}, "must be divisible"),
        ("bert", {"num_attention_heads": 3}, "not a multiple"),
        ("electra", {"num_attention_heads": 3}, "shapes cannot be multiplied"),
    ],
)
def test_no_width_is_cut_unevenly(family: str, settings: dict[str, Any], message: str) -> None:
    """transformers builds, or runs, no model with such a number of heads."""
    with pytest.raises((ValueError, RuntimeError), match=message):
        model = model_of(family, **settings)
        values_of(model, contexts(model), batch(model))

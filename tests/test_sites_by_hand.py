"""Every site of every family against tensors recomputed by hand in float64 from the weights."""

import math

import pytest
import torch
from attribution_brute_force import stay_in_float64
from site_oracle import site_oracle
from site_oracle_cases import Case, random_case
from site_oracle_parts import Inputs, Sites
from site_oracle_t5 import bucket
from tiny_models import EVERY
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

import pyengine

SEEDS = range(8)
CLOSE = 1e-9
# Where the last block's output is read, if no norm comes in between.
LAST = {"openai-gpt": "unembed.hook_in", "bert": "mlm_head.hook_in", "electra": "mlm_head.hook_in"}
MAPS = ("hook_attn_scores", "hook_pattern")


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-Neo's attention and T5's norm round to float32, even in a float64 model."""
    stay_in_float64(monkeypatch)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", EVERY)
def test_every_site(family: str, seed: int) -> None:
    """No site escapes: both sides have the same names, in the same order."""
    case = random_case(family, seed)
    assert_run(case, site_oracle(case.hf, case.inputs), CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", ["gpt_neo", "t5", "t5_gated"])
def test_every_site_as_shipped(family: str, seed: int) -> None:
    """The modules that round to float32, as they are."""
    case = random_case(family, seed)
    assert_run(case, site_oracle(case.hf, case.inputs), 1e-4)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", SEEDS[:4])
@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "electra_small"])
def test_every_site_but_maps_without_eager_attention(family: str, seed: int) -> None:
    case = random_case(family, seed)
    case.hf.set_attn_implementation("sdpa")
    expected = site_oracle(case.hf, case.inputs)
    assert_run(case, {n: v for n, v in expected.items() if not n.endswith(MAPS)}, CLOSE)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", EVERY)
def test_the_hand_agrees_with_what_hugging_face_returns(family: str, seed: int) -> None:
    """Logits, attentions and hidden states depend on nearly everything that the hand computes."""
    case = random_case(family, seed)
    expected = site_oracle(case.hf, case.inputs)
    for name, value in returned(case).items():
        assert_site(name, value, expected[name], case.inputs, CLOSE)


@pytest.mark.parametrize("both_sides", [False, True])
@pytest.mark.parametrize(("n", "furthest"), [(32, 128), (6, 8), (7, 20), (9, 31), (4, 5)])
def test_relative_buckets(n: int, furthest: int, both_sides: bool) -> None:
    offsets = range(-300, 301)
    theirs = T5Attention._relative_position_bucket(torch.tensor(offsets), both_sides, n, furthest)
    assert theirs.tolist() == [bucket(offset, n, furthest, both_sides) for offset in offsets]


def returned(case: Case) -> Sites:
    """Run the model and name what it returns, without any hook of ours."""
    with torch.inference_mode():
        out = case.hf(**case.inputs, output_hidden_states=True, output_attentions=True)
    sites = {"unembed.hook_out": out.logits}
    if case.hf.config.model_type == "t5":
        sites |= _stack(out.encoder_hidden_states, "encoder_blocks", "encoder_ln_final.hook_out")
        sites |= _stack(out.decoder_hidden_states, "decoder_blocks", "decoder_ln_final.hook_out")
        sites |= _patterns(out.encoder_attentions, "encoder_blocks", "attn")
        sites |= _patterns(out.decoder_attentions, "decoder_blocks", "self_attn")
        return sites | _patterns(out.cross_attentions, "decoder_blocks", "cross_attn")
    last = LAST.get(case.hf.config.model_type, "ln_final.hook_out")
    return sites | _stack(out.hidden_states, "blocks", last) | _patterns(out.attentions, "blocks")


def _stack(states: tuple[Tensor, ...], blocks: str, last: str) -> Sites:
    before = {f"{blocks}.{layer}.hook_resid_pre": x for layer, x in enumerate(states[:-1])}
    return before | {last: states[-1]}


def _patterns(patterns: tuple[Tensor, ...], blocks: str, attention: str = "attn") -> Sites:
    return {f"{blocks}.{l}.{attention}.hook_pattern": x for l, x in enumerate(patterns)}  # noqa: E741


def assert_run(case: Case, expected: Sites, tolerance: float) -> None:
    """Compare what `run_with_cache` returns with all that is expected."""
    logits, cache = pyengine.run_with_cache(case.hf, case.inputs, return_type="logits")
    assert list(cache) == list(expected)
    for name in expected:
        assert_site(name, cache[name], expected[name], case.inputs, tolerance)
    assert torch.equal(logits, cache["unembed.hook_out"])


def assert_site(
    name: str, found: Tensor, expected: Tensor, inputs: Inputs, tolerance: float
) -> None:
    """Compare at real positions; where the hand has -inf, any score that softmax turns into 0."""
    if name == "hook_pos_embed" and len(found) != len(expected):  # one row for all, or one each
        found, expected = torch.broadcast_tensors(found, expected)
    assert found.shape == expected.shape, name
    assert found.dtype == torch.float64, name
    found, expected = real(name, found, inputs), real(name, expected, inputs)
    hidden = expected == -math.inf
    assert (found[hidden] < -9e3).all(), name  # openai-gpt has -1e4 there
    found, expected = found.masked_fill(hidden, 0), expected.masked_fill(hidden, 0)
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}"
    )


def real(name: str, value: Tensor, inputs: Inputs) -> Tensor:
    """Take the rows of real tokens; T5's relative biases are the same for the whole batch."""
    mask = inputs.get(_mask_of(name, inputs))
    if mask is None or ("decoder_input_ids" in inputs and "pos_embed" in name):
        return value
    if name.endswith(MAPS):
        value = value.transpose(1, 2)  # queries before heads
    return value[mask.bool()]


def _mask_of(name: str, inputs: Inputs) -> str:
    """Name the mask of a site's positions; memory's keys and values lie in the source text."""
    of_source = name.endswith(("cross_attn.hook_k", "cross_attn.hook_v"))
    of_target = "decoder_input_ids" in inputs and name.startswith(("decoder_", "unembed."))
    return "decoder_attention_mask" if of_target and not of_source else "attention_mask"

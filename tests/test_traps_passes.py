"""Passes that stop early, and passes that a hook ends: equal, cheap, and nothing left behind."""

from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from trap_cases import TEXTS, block_names, eager, plain

import pyengine


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_a_pass_that_stops_early_equals_the_full_one(family: str) -> None:
    hf = tiny_model(family)
    inputs = {"input_ids": torch.tensor(TEXTS[:1])}
    if family == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[0, 5, 6]])
    _, full = pyengine.run_with_cache(hf, inputs)
    for layer, prefix in enumerate(block_names(family)):
        residual, cache = pyengine.run_with_cache(hf, inputs, stop_at_layer=layer)
        assert torch.equal(residual, full[f"{prefix}.hook_resid_pre"])
        assert f"{prefix}.mlp.hook_post" not in cache
        for name, value in cache.items():
            assert torch.equal(value, full[name]), name
    assert len(cache) > len(full) // 2


def test_a_pass_that_stops_early_does_not_run_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[int] = []
    forward = GPT2Block.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        run.append(self.attn.layer_idx)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(GPT2Block, "forward", counted)
    hf = tiny_model("gpt2")
    pyengine.run_with_cache(hf, TEXTS[:1], stop_at_layer=2)
    assert run == [0, 1]
    run.clear()
    name = "blocks.0.mlp.hook_post"
    pyengine.run_with_cache(hf, TEXTS[:1], names_filter=name, return_type=None)
    assert run == [0]


def test_sites_that_run_later_than_they_are_listed() -> None:
    """T5 computes its relative bias inside the first attention, after the queries."""
    hf = tiny_model("t5")
    for names in (
        ["hook_pos_embed", "encoder_blocks.0.attn.hook_q"],
        ["decoder_pos_embed.hook_out", "decoder_blocks.0.self_attn.hook_q"],
    ):
        _, cache = pyengine.run_with_cache(hf, TEXTS[:1], names_filter=names, return_type=None)
        assert list(cache) == names


class Interrupted(Exception):
    """Raised by a hook."""


@pytest.mark.parametrize(
    "site", ["attn.hook_attn_scores", "attn.hook_pattern", "mlp.hook_post", "ln2.hook_scale"]
)
def test_nothing_is_left_behind_by_a_hook_that_raises(site: str) -> None:
    hf = eager("gpt2")
    before = plain(hf, input_ids=torch.tensor(TEXTS[:1])).logits
    parameters = {name: id(value) for name, value in hf.named_parameters()}

    def fail(_value: Tensor, _site: Any) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        pyengine.run_with_hooks(hf, TEXTS[:1], fwd_hooks=[(f"blocks.1.{site}", fail)])
    for module in hf.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert not _get_current_function_mode_stack()
    assert {name: id(value) for name, value in hf.named_parameters()} == parameters
    assert torch.equal(plain(hf, input_ids=torch.tensor(TEXTS[:1])).logits, before)
    after, _ = pyengine.run_with_cache(hf, TEXTS[:1])
    assert torch.equal(after, before)

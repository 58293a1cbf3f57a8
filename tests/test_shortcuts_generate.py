"""Generation with early exit, against recomputing every prefix."""

from typing import Any

import pytest
import torch
from random_shortcuts import double_model, random_shortcuts, residual_stream
from shortcut_exit_cases import SHARP, first_exit, own_maps

import pyengine
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.shortcuts.early_exit import LAMBDAS
from pyengine.shortcuts.early_exit_generation import generate
from pyengine.shortcuts.result import Shortcuts

CAUSAL = ("gpt2", "gpt_neo")
PROMPTS = [[5, 9, 33], [12], [7, 7, 60, 2, 41]]
N_NEW = 12


def recomputed(
    model: Model, shortcuts: Shortcuts, prompt: list[int], lam: float, kind: str
) -> tuple[list[int], list[int]]:
    """Run the whole prefix again for every token."""
    tokens, layers = list(prompt), []
    for _ in range(N_NEW):
        states = residual_stream(model, model.hf, "decoder", tokens)[-1]
        token, layer = first_exit(model, shortcuts, states, len(tokens) - 1, lam, kind)
        tokens.append(token)
        layers.append(layer)
    return tokens, layers


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("kind", ["mat", "affine", "id"])
@pytest.mark.parametrize("lam", [0.2, 0.5])
def test_generation_matches_recomputing_every_prefix(family, kind, lam):
    model = double_model(family, SHARP)
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    found = generate(
        model,
        shortcuts,
        PROMPTS,
        early_exit=lam,
        max_new_tokens=N_NEW,
        kind=kind,
        eos_token_id=(),
    )
    seen = set()
    for prompt, one in zip(PROMPTS, found, strict=True):
        tokens, layers = recomputed(model, shortcuts, prompt, lam, kind)
        assert one.tokens.tolist() == tokens
        assert one.new_tokens.tolist() == tokens[len(prompt) :]
        assert one.layers.tolist() == layers
        assert one.n_computed == needed(len(prompt), layers)
        assert one.n_whole == (len(tokens) - 1) * model.n_layers
        seen |= set(layers)
    assert len(seen) >= 3


def needed(n_prompt: int, layers: list[int]) -> int:
    """Count the positions that some later exit needs, block by block."""
    n_computed = 0
    for block in range(max(layers)):
        last = max(step for step, layer in enumerate(layers) if layer > block)
        n_computed += n_prompt + last
    return n_computed


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("attention", ["eager", None])
def test_no_exit_is_plain_greedy_generation(family, attention):
    overrides = {} if attention is None else {"attn_implementation": attention}
    model = double_model(family, **overrides)
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    found = generate(model, shortcuts, PROMPTS, early_exit=LAMBDAS[-1], max_new_tokens=20)
    for prompt, one in zip(PROMPTS, found, strict=True):
        plain = pyengine.generate(model, [prompt], max_new_tokens=20, do_sample=False)
        assert torch.equal(one.tokens, plain[0])
        assert set(one.layers.tolist()) == {model.n_layers}
        assert one.n_computed == one.n_whole


@pytest.mark.parametrize("family", CAUSAL)
def test_the_lowest_threshold_runs_one_block(family):
    model = double_model(family)
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    (one,) = generate(
        model, shortcuts, [PROMPTS[0]], early_exit=-1.112, max_new_tokens=6, eos_token_id=()
    )
    assert one.layers.tolist() == [1] * 6
    assert one.n_computed == len(one.tokens) - 1


def test_a_continuation_ends_where_it_is_told_to():
    model = double_model("gpt2")
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    how: dict[str, Any] = {"early_exit": 0.5, "max_new_tokens": N_NEW}
    (whole,) = generate(model, shortcuts, [PROMPTS[0]], eos_token_id=(), **how)
    end = int(whole.new_tokens[4])
    first = whole.new_tokens.tolist().index(end) + 1
    for given in (end, [end, 10_000]):
        (cut,) = generate(model, shortcuts, [PROMPTS[0]], eos_token_id=given, **how)
        assert torch.equal(cut.new_tokens, whole.new_tokens[:first])
    model.hf.generation_config.eos_token_id = end
    (cut,) = generate(model, shortcuts, [PROMPTS[0]], **how)
    assert torch.equal(cut.new_tokens, whole.new_tokens[:first])


def test_half_precision_generates():
    model = pyengine.load((double_model("gpt2", SHARP).hf.bfloat16(), None))
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    (one,) = generate(
        model, shortcuts, [PROMPTS[2]], early_exit=-1.112, max_new_tokens=6, eos_token_id=()
    )
    assert len(one.new_tokens) == 6
    assert one.n_computed == one.n_whole // 3


def test_states_are_read_through_maps_of_ones_own():
    model = double_model("gpt2", SHARP)
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    how: dict[str, Any] = {"early_exit": 0.2, "max_new_tokens": N_NEW, "eos_token_id": ()}
    found, affine, mat = (
        generate(model, shortcuts, PROMPTS, kind=kind, **how)
        for kind in (own_maps(shortcuts), "affine", "mat")
    )
    for one, other in zip(found, affine, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.layers, other.layers)
    assert [one.tokens.tolist() for one in found] != [one.tokens.tolist() for one in mat]
    with pytest.raises(PyengineError, match="there is no map of layer 1; there are those of: 2"):
        lacking = {2: own_maps(shortcuts)[2]}
        generate(model, shortcuts, PROMPTS, kind=lacking, **how)


def test_what_cannot_be_generated_is_refused():
    model = double_model("gpt2")
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    how: dict[str, Any] = {"early_exit": 0.5, "max_new_tokens": N_NEW}
    with pytest.raises(PyengineError, match="prompt and new tokens are 36"):
        generate(model, shortcuts, [[1] * 24], **how)
    with pytest.raises(PyengineError, match="does not read labels"):
        generate(model, shortcuts, {"input_ids": [[1]], "labels": [[1]]}, **how)
    with pytest.raises(PyengineError, match="max_new_tokens"):
        generate(model, shortcuts, [[1]], early_exit=0.5, max_new_tokens=0)
    bert = double_model("bert")
    with pytest.raises(PyengineError, match="early exit generates with causal models"):
        generate(bert, random_shortcuts(bert, "encoder", sub_modules=False), [[1]], **how)
    with pytest.raises(PyengineError, match="another model"):
        generate(double_model("gpt2", seed=1), shortcuts, [[1]], **how)


def test_models_without_a_cache_are_refused():
    model = double_model("openai-gpt")
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    with pytest.raises(PyengineError, match="is a openai-gpt, which keeps no keys and values"):
        generate(model, shortcuts, [[5, 6]], early_exit=0.5, max_new_tokens=2)

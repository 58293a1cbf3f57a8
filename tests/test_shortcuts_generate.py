"""Generation with early exit, against recomputing every prefix; and passes that really stop."""

from typing import Any

import pytest
import torch
from random_shortcuts import double_model, random_shortcuts, residual_stream, units_of

import pyengine
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.shortcuts.early_exit import LAMBDAS
from pyengine.shortcuts.early_exit_generation import generate
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.stopping import Stopping
from pyengine.shortcuts.validation_batches import validation_batches
from pyengine.shortcuts.wall_clock import StoppingPass, wall_clock

CAUSAL = ("gpt2", "gpt_neo")
PROMPTS = [[5, 9, 33], [12], [7, 7, 60, 2, 41]]
N_NEW = 12
SHARP = 3


def final_logits(model: Model, x: torch.Tensor) -> torch.Tensor:
    """Read [d] as plain Hugging Face does."""
    hf: Any = model.hf
    logits: torch.Tensor
    with torch.no_grad():
        if model.family.model_type == "bert":
            logits = hf.cls.predictions(x)
        elif model.family.model_type == "t5":
            logits = hf.lm_head(hf.decoder.final_layer_norm(x) * x.shape[-1] ** -0.5)
        else:
            logits = hf.lm_head(hf.transformer.ln_f(x))
    return logits


def first_exit(
    model: Model, shortcuts: Shortcuts, states: torch.Tensor, t: int, lam: float, kind: str = "mat"
) -> tuple[int, int]:
    """Go up x_0 … x_L, [L + 1, d], of one position; return the token and the layer."""
    lengths = shortcuts.validation().positions
    shift = int(model.family.encoder_decoder)
    mean_length = float((lengths + shift + 1).double().mean())
    n_layers = len(states) - 1
    for layer in range(1, n_layers):
        mapped = shortcuts.apply(states[layer], layer, kind=kind)
        first, second = final_logits(model, mapped).softmax(-1).topk(2).values.tolist()
        if first - second > 0.9 * lam + 0.1 * torch.exp(torch.tensor(-4 * t / mean_length)).item():
            return int(final_logits(model, mapped).argmax()), layer
    return int(final_logits(model, states[-1]).argmax()), n_layers


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


@pytest.mark.parametrize(
    ("family", "stack"),
    [("gpt2", "decoder"), ("gpt_neo", "decoder"), ("bert", "encoder"), ("t5", "decoder")],
)
@pytest.mark.parametrize("lam", [0.2, 0.6, 1.112])
def test_passes_stop_where_the_rule_says(family, stack, lam):
    model = double_model(family, SHARP)
    shortcuts = random_shortcuts(model, stack, every=False, sub_modules=False)
    passes = StoppingPass(model, Stopping(model, shortcuts, lam))
    shift = int(model.family.encoder_decoder)
    units = units_of()
    for rows in validation_batches(model, shortcuts, stack, batch_tokens=1):
        tokens = units[int(rows.batch.units[0])]
        position = len(tokens) - 1 + shift
        states = residual_stream(model, model.hf, stack, tokens)[position]
        assert passes.run(rows) == first_exit(model, shortcuts, states, position, lam)


@pytest.mark.parametrize(
    ("family", "stack"), [("gpt2", "decoder"), ("bert", "encoder"), ("t5", "decoder")]
)
def test_the_ledger_says_where_passes_really_stop(family, stack):
    model = double_model(family, SHARP)
    shortcuts = random_shortcuts(model, stack, every=False, sub_modules=False)
    table = evaluate(shortcuts, model, mappings=["mat"], bootstrap=2).exit_samples
    assert table is not None
    said = {
        (row["lambda"], row["unit"]): (row["top_tokens"][0], row["layers"])
        for row in table.to_pylist()
    }
    stopping, units = Stopping(model, shortcuts, 0), shortcuts.validation().table.units
    passes, seen = StoppingPass(model, stopping), set()
    for rows in validation_batches(model, shortcuts, stack, batch_tokens=1):
        for lam in LAMBDAS:
            passes.stopping = stopping.at(lam)
            found = passes.run(rows)
            assert found == said[lam, units[rows.batch.units[0]]]
            seen.add(found[1])
    assert seen == {*range(1, shortcuts.n_layers() + 1)}


def test_wall_clock_says_what_was_run():
    model = double_model("gpt2")
    shortcuts = random_shortcuts(model, "decoder", every=False, sub_modules=False)
    told: list[tuple[int, int]] = []
    table = wall_clock(
        model,
        shortcuts,
        lambdas=[-1.112, 0.4, 1.112],
        n_samples=4,
        on_progress=lambda *done: told.append(done),
    ).to_pylist()
    assert [row["lambda"] for row in table] == [-1.112, 0.4, 1.112]
    assert table[0]["mean_layer"] == 1
    assert table[0]["layers_saved"] == pytest.approx(2 / 3)
    assert table[2]["mean_layer"] == 3
    assert table[2]["agreement"] == 1
    for row in table:
        assert row["seconds"] > 0
        assert row["whole_seconds"] == table[0]["whole_seconds"] > 0
        assert row["time_saved"] < 1
    assert told == [(n, 4) for n in (1, 2, 3, 4)]

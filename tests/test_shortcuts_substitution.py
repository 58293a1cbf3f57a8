"""Sub-modules replaced by maps, against plain Hugging Face with its modules patched by hand."""

import copy
from typing import Any

import pytest
import torch
from random_shortcuts import (
    BLOCKS,
    double_model,
    random_shortcuts,
    residual_stream,
)
from tiny_models import tiny_model, word_tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

import pyengine
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.shortcuts.block_runs import BlockRuns, blocks_of, run_from
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.substitution import substituted_states
from pyengine.shortcuts.validation_batches import validation_batches

CASES = [
    ("gpt2", "decoder"),
    ("gpt_neo", "decoder"),
    ("openai-gpt", "decoder"),
    ("bert", "encoder"),
    ("electra", "encoder"),
    ("t5", "encoder"),
    ("t5", "decoder"),
    ("t5_gated", "decoder"),
]

# Of each mode, by model and stack: (tap that the map starts from, module whose output it replaces).
PATCHES: dict[tuple[str, str], dict[str, list[tuple[int, str]]]] = {
    ("gpt2", "decoder"): {
        "mat_attn": [(1, "attn")],
        "mat_ffn": [(4, "mlp")],
        "mat_norm": [(0, "ln_1"), (3, "ln_2")],
    },
    ("openai-gpt", "decoder"): {
        "mat_attn": [(0, "attn")],
        "mat_ffn": [(3, "mlp")],
        "mat_norm": [(2, "ln_1"), (5, "ln_2")],
    },
    ("bert", "encoder"): {
        "mat_attn": [(0, "attention.output.dense")],
        "mat_ffn": [(3, "output.dense")],
        "mat_norm": [(2, "attention.output.LayerNorm"), (5, "output.LayerNorm")],
    },
    ("t5", "encoder"): {
        "mat_attn": [(1, "layer.0.SelfAttention")],
        "mat_ffn": [(4, "layer.1.DenseReluDense")],
        "mat_norm": [(0, "layer.0.layer_norm"), (3, "layer.1.layer_norm")],
    },
    ("t5", "decoder"): {
        "mat_attn": [(1, "layer.0.SelfAttention")],
        "mat_cross": [(4, "layer.1.EncDecAttention")],
        "mat_ffn": [(7, "layer.2.DenseReluDense")],
        "mat_norm": [
            (0, "layer.0.layer_norm"),
            (3, "layer.1.layer_norm"),
            (6, "layer.2.layer_norm"),
        ],
    },
}
PATCHES["gpt_neo", "decoder"] = PATCHES["gpt2", "decoder"]
PATCHES["electra", "encoder"] = PATCHES["bert", "encoder"]
# BERT's maps do not start from the input of the module that they end in.
STARTS = {"attention.output.dense": "", "output.dense": "intermediate"}


def patched(model: Model, shortcuts: Shortcuts, stack: str, mode: str, first: int) -> Any:
    """Copy the model, with the maps of a mode in the blocks from `first` on."""
    hf: Any = copy.deepcopy(model.hf)
    model_type = model.family.model_type
    blocks = list(hf.get_submodule(BLOCKS[model_type, stack]))
    for number in range(first, len(blocks)):
        for tap, path in PATCHES[model_type, stack][mode]:
            mapping = shortcuts.sub_module(number, tap, stack=stack)
            assert mapping.weight is not None
            start = blocks[number].get_submodule(STARTS.get(path, path))
            patch(start, blocks[number].get_submodule(path), mapping.weight.double())
    return hf


def patch(start: nn.Module, end: nn.Module, weight: Tensor) -> None:
    """Replace what `end` returns by a map of what `start` reads."""
    read: list[Tensor] = []
    start.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )

    def replace(_module: nn.Module, _inputs: Any, out: Any) -> Any:
        mapped = read.pop() @ weight.t()
        return mapped if isinstance(out, Tensor) else type(out)([mapped, *out[1:]])

    end.register_forward_hook(replace)


def expected_states(
    model: Model, shortcuts: Shortcuts, stack: str, mode: str, first: int
) -> Tensor:
    """Run every validation unit alone through the patched model."""
    hf = patched(model, shortcuts, stack, mode, first)
    validation = shortcuts.validation(stack)
    shift = int(model.family.encoder_decoder and stack == "decoder")
    found = []
    for unit in validation.table.units.tolist():
        stream = residual_stream(model, hf, stack, validation.table.tokens_of(unit).tolist())
        found.append(stream[validation.positions[validation.units == unit] + shift, -1])
    return torch.cat(found)


@pytest.mark.parametrize(("family", "stack"), CASES)
@pytest.mark.parametrize("attention", ["eager", None])
def test_modes_match_modules_patched_by_hand(family, stack, attention):
    overrides = {} if attention is None else {"attn_implementation": attention}
    model = double_model(family, **overrides)
    shortcuts = random_shortcuts(model, stack)
    # GPT-Neo rounds queries and keys to float32: only products of one shape round alike.
    alone = 1 if family == "gpt_neo" else None
    found = substituted_states(model, shortcuts, stack=stack, batch_tokens=alone)
    n_layers = shortcuts.n_layers(stack)
    assert set(found) == set(PATCHES[model.family.model_type, stack])
    exact = shortcuts.validation(stack).states[:, n_layers].double()
    for mode, states in found.items():
        assert states.dtype == torch.float64
        assert torch.equal(states[:, -1], exact)
        for first in range(n_layers):
            wanted = expected_states(model, shortcuts, stack, mode, first)
            torch.testing.assert_close(states[:, first], wanted, rtol=1e-10, atol=1e-10)
            assert (wanted - exact).abs().max() > 0.1


def test_gpt_neo_in_batches_matches_units_one_by_one():
    model = double_model("gpt_neo")
    shortcuts = random_shortcuts(model, "decoder")
    alone = substituted_states(model, shortcuts, batch_tokens=1)
    for mode, states in substituted_states(model, shortcuts).items():
        torch.testing.assert_close(states, alone[mode], rtol=1e-4, atol=1e-4)


def test_affine_maps_are_used_where_asked_for():
    model = double_model("gpt2")
    shortcuts = random_shortcuts(model, "decoder")
    mat, affine = (substituted_states(model, shortcuts, kind=kind) for kind in ("mat", "affine"))
    assert set(affine) == {"affine_attn", "affine_ffn", "affine_norm"}
    for ending in ("attn", "ffn", "norm"):
        moved = (mat[f"mat_{ending}"] - affine[f"affine_{ending}"]).abs().amax((0, 2))
        assert (moved[:-1] > 0.1).all()
        assert moved[-1] == 0


@pytest.mark.parametrize(("family", "stack"), CASES)
def test_blocks_run_again_give_the_pass_itself(family, stack):
    model = double_model(family)
    shortcuts = random_shortcuts(model, stack, sub_modules=False)
    validation, runs = shortcuts.validation(stack), BlockRuns(model, stack)
    seen = 0
    for rows in validation_batches(model, shortcuts, stack, batch_tokens=20):
        calls, at = runs.calls(rows.batch, rows.decoder), rows.places(model.device)
        own = blocks_of(model, model.body, stack)
        for first in range(len(own)):
            states = run_from(first, own, calls)[at].float()
            last = validation.states[rows.samples, -1]
            torch.testing.assert_close(states, last, rtol=1e-5, atol=1e-5)
            begin = calls[first].stream[at].float()
            torch.testing.assert_close(begin, validation.states[rows.samples, first])
        seen += len(rows.samples)
    assert seen == len(validation)


def test_a_fit_without_sub_modules_says_so():
    model = double_model("gpt2")
    with pytest.raises(PyengineError, match="fit with them"):
        substituted_states(model, random_shortcuts(model, "decoder", sub_modules=False))


def test_another_model_is_refused():
    shortcuts = random_shortcuts(double_model("gpt2"), "decoder")
    with pytest.raises(PyengineError, match="another model"):
        substituted_states(double_model("gpt2", seed=1), shortcuts)


def test_hooks_that_would_be_lost_are_refused():
    model = double_model("gpt2")
    shortcuts = random_shortcuts(model, "decoder")
    model.hf.get_submodule("transformer.h.1.mlp.c_fc").register_forward_hook(lambda *_: None)
    with pytest.raises(PyengineError, match=r"hooks on h\.1\.mlp"):
        substituted_states(model, shortcuts)


def test_replaced_attention_is_not_computed(monkeypatch):
    model = double_model("gpt2")
    shortcuts = random_shortcuts(model, "decoder")
    n_calls = 0
    attend = nn.functional.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal n_calls
        n_calls += 1
        return attend(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    substituted_states(model, shortcuts)
    # One batch: the exact pass, then, from each of 3 layers on, the two modes that attend.
    assert n_calls == 3 + 2 * (3 + 2 + 1)


TEXTS = [
    f"w{i} w{i % 7} w{(3 * i) % 11} w{i % 5} w2 w{i % 3}"[: 6 + 2 * (i % 9)] for i in range(40)
]


@pytest.mark.parametrize("tokens", ["one", "all"])
@pytest.mark.parametrize(("family", "stack"), CASES[:-1])
def test_validation_units_are_read_as_in_the_fit(family, stack, tokens):
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "w89"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    model = pyengine.load((tiny_model(family), tokenizer))
    corpus = pyengine.Corpus.from_texts(TEXTS)
    shortcuts = fit_shortcuts(model, corpus, tokens=tokens, activation="model")
    validation, runs = shortcuts.validation(stack), BlockRuns(model, stack)
    seen = []
    for rows in validation_batches(model, shortcuts, stack, batch_tokens=30):
        for layer, call in enumerate(runs.calls(rows.batch, rows.decoder)):
            states = validation.states[rows.samples, layer]
            found = call.stream[rows.places(model.device)]
            torch.testing.assert_close(found, states, rtol=1e-4, atol=1e-4)
        seen += rows.samples.tolist()
    assert sorted(seen) == [*range(len(validation))]

"""Erasing and editing value vectors: the formulas, and every bit back on every path."""

from collections.abc import Callable, Generator
from math import nan
from typing import Any

import pytest
import torch
from attribution_cases import prompts, tiny
from intervention_cases import bits, module
from small_tokenizers import byte_tokenizer
from tiny_models import FAMILIES
from torch import Tensor

import pyengine
from pyengine.intervention_base import Intervention
from pyengine.weight_edits import edit, erase

families = pytest.mark.parametrize("family", FAMILIES)

NEURONS = [(0, 3), (0, 36), (2, 0), (0, 3)]
CONV1D = ("gpt2", "openai-gpt")  # store matrices as [inputs, outputs]
TIED = {"gpt2": "transformer.h.{}.mlp.c_proj", "bert": "bert.encoder.layer.{}.output.dense"}


def vector(hf: Any, neuron: tuple[int, int]) -> Tensor:
    """Return a copy of a value vector, by the module's own layout."""
    weight = module(hf, neuron[0]).weight.detach()
    own = weight[neuron[1]] if hf.config.model_type in CONV1D else weight[:, neuron[1]]
    return own.clone()


def embedding(model: pyengine.Model, *words: str) -> Tensor:
    assert model.tokenizer is not None
    ids: Any = model.tokenizer.convert_tokens_to_ids([*words])
    table: Any = model.hf.get_input_embeddings()
    found: Tensor = table.weight.detach()[ids].sum(0)
    return found


def everything(model: pyengine.Model) -> list[Intervention]:
    """One of each kind, on overlapping neurons."""
    return [
        erase(model, NEURONS),
        erase(model, [(2, 0), (1, 5)], "unk"),
        edit(model, NEURONS, old="w1", new="w2"),
        edit(model, [(0, 36), (1, 5)], old="w1", new="w2 w3", rule="dai"),
    ]


@families
def test_changes_the_rows_it_names_and_no_other(family: str) -> None:
    model = tiny(family)
    names = {id(p): name for name, p in model.hf.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    with erase(model, NEURONS):
        for neuron in NEURONS:
            assert not vector(model.hf, neuron).any()
        changed = {name for name, p in model.hf.named_parameters() if (p != before[name]).any()}
        assert changed == {names[id(module(model.hf, layer).weight)] for layer in (0, 2)}
        rows = (module(model.hf, 0).weight != before[names[id(module(model.hf, 0).weight)]]).any(
            1 if family in CONV1D else 0
        )
        assert rows.nonzero().flatten().tolist() == [3, 36]


@families
def test_erase_unk_and_both_rules(family: str) -> None:
    model = tiny(family)
    neuron = (2, 11)
    v = vector(model.hf, neuron)
    old, new = embedding(model, "w1"), embedding(model, "w2")
    with erase(model, [neuron], "unk"):
        assert torch.equal(vector(model.hf, neuron), embedding(model, "<unk>"))
    with edit(model, [neuron, neuron], old="w1", new="w2"):
        assert torch.equal(vector(model.hf, neuron), v - 2 * old + 2 * new)
    with edit(model, [neuron], old="w1", new="w2", rule="dai"):
        wanted = v - v.norm() / old.norm() * old + 8 * v.norm() / new.norm() * new
        torch.testing.assert_close(vector(model.hf, neuron), wanted, rtol=1e-12, atol=1e-12)
    with edit(model, [neuron], old="w1", new="w2", rule="dai", strengths=(0, 3)):
        wanted = v + 3 * v.norm() / new.norm() * new
        torch.testing.assert_close(vector(model.hf, neuron), wanted, rtol=1e-12, atol=1e-12)


def test_several_tokens_are_a_sum_of_their_mean_norm() -> None:
    model = tiny("bert")
    v = vector(model.hf, (1, 4))
    total = embedding(model, "w3", "w4", "w5")
    norm = sum(embedding(model, word).norm() for word in ("w3", "w4", "w5")) / 3
    with edit(model, [(1, 4)], old="w1", new="w3 w4 w5", strengths=(0, 1)):
        wanted = v + total / total.norm() * norm
        torch.testing.assert_close(vector(model.hf, (1, 4)), wanted, rtol=1e-12, atol=1e-12)
    table: Any = model.hf.get_input_embeddings()
    with torch.no_grad():
        table.weight[12] = -table.weight[11]
    with pytest.raises(pyengine.PyengineError, match=r"tokens \[11, 12\] cancel out"):
        edit(model, [(1, 4)], old="w1", new=[11, 12])


@families
def test_the_old_answer_is_what_the_model_says(family: str) -> None:
    model = tiny(family)
    prompt = prompts(model)[0]
    answer = erase(model, []).effect(prompt, "w9").before.completion
    v = vector(model.hf, (0, 3))
    with edit(model, [(0, 3)], new="w9", prompt=prompt):
        wanted = v - 2 * embedding(model, answer) + 2 * embedding(model, "w9")
        assert torch.equal(vector(model.hf, (0, 3)), wanted)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_edge_case_4_every_bit_is_back(family: str, dtype: torch.dtype) -> None:
    """Outside `torch.no_grad`, with duplicates, after normal ends and exceptions."""
    model = tiny(family, dtype)
    state = bits(model.hf)
    for intervention in everything(model):
        with intervention:
            assert bits(model.hf) != state
        assert bits(model.hf) == state
        with pytest.raises(RuntimeError, match="boom"), intervention:
            raise RuntimeError("boom")
        assert bits(model.hf) == state
    assert all(parameter.requires_grad for parameter in model.hf.parameters())


@families
def test_edge_case_4_nested_and_left_in_any_order(family: str) -> None:
    model = tiny(family, torch.float32)
    state = bits(model.hf)
    made = everything(model)
    alone = []
    for intervention in made:
        with intervention:
            alone.append(bits(model.hf))
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
        for intervention in made:
            intervention.__enter__()
        for place, i in enumerate(order):
            made[i].__exit__(None, None, None)
            if place == 2:
                assert bits(model.hf) == alone[order[3]]
        assert bits(model.hf) == state


def test_edge_case_4_layers_that_share_a_weight_are_changed_once() -> None:
    for family, path in TIED.items():
        model = tiny(family)
        holders = [model.hf.get_submodule(path.format(i)) for i in (0, 2)]
        holders[1].weight = holders[0].weight
        state, v = bits(model.hf), vector(model.hf, (0, 5))
        change = edit(model, [(2, 5), (0, 5)], old="w1", new="w2")
        wanted = v - 2 * embedding(model, "w1") + 2 * embedding(model, "w2")
        effect = change.effect(prompts(model)[0], "w9")
        with change:
            assert torch.equal(vector(model.hf, (0, 5)), wanted)
            plain = erase(model, []).effect(prompts(model)[0], "w9")
        assert plain.before == effect.after
        assert bits(model.hf) == state


def test_two_models_around_the_same_weights() -> None:
    model = tiny("bert")
    state = bits(model.hf)
    body = pyengine.load((model.body, model.tokenizer))  # type: ignore[arg-type]
    one, two = edit(model, NEURONS, old="w1", new="w2"), erase(body, NEURONS)
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert not vector(model.hf, (0, 3)).any()
    two.__exit__(None, None, None)
    assert bits(model.hf) == state


def test_a_generator_that_is_closed_undoes() -> None:
    model = tiny("gpt2")
    state = bits(model.hf)

    def steps() -> Generator[bool]:
        with erase(model, NEURONS):
            yield bits(model.hf) == state

    walk = steps()
    assert next(walk) is False
    walk.close()
    assert bits(model.hf) == state


def test_the_fingerprint_follows_the_weights() -> None:
    model = tiny("gpt2")
    before = model.fingerprint
    with erase(model, NEURONS):
        inside = model.fingerprint
        assert inside != before
    assert model.fingerprint == before


def test_a_model_that_is_moved_while_it_is_changed() -> None:
    model = tiny("gpt_neo", torch.float32)
    with erase(model, NEURONS):
        model.hf.double()
    wanted = tiny("gpt_neo", torch.float32)
    wanted.hf.double()
    assert bits(model.hf) == bits(wanted.hf)


def test_effects_leave_no_trace() -> None:
    model = tiny("t5")
    state = bits(model.hf)
    for intervention in everything(model):
        effect = intervention.effect(prompts(model)[0], "w9")
        assert effect.before != effect.after
    assert bits(model.hf) == state


def _gpt2_tokenizer(model: pyengine.Model) -> None:
    erase(pyengine.load((model.hf, byte_tokenizer())), [(0, 0)], "unk")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: erase(model, [(0, 0)], "mean"), "unknown erase_value 'mean'"),
        (lambda model: erase(model, [(9, 0)]), r"neuron \(9, 0\) is out of range"),
        (_gpt2_tokenizer, "no unknown token of its own; use erase_value='zero'"),
        (lambda model: edit(model, [(0, 0)], new="w1"), "edit needs old=..., or prompt=..."),
        (lambda model: edit(model, [(0, 0)], new="w1", old="w2", rule="me"), "unknown rule 'me'"),
        (lambda model: edit(model, [(0, 0)], new="what", old="w2"), "not in the vocabulary"),
        (
            lambda model: edit(model, [(0, 0)], new="w1", old="w2", strengths=(1, nan)),
            r"strengths must be two finite numbers, not \(1, nan\)",
        ),
    ],
)
def test_bad_settings_are_refused(make: Callable[[pyengine.Model], Any], message: str) -> None:
    with pytest.raises(pyengine.PyengineError, match=message):
        make(tiny("gpt2"))


def test_a_rule_that_divides_by_nothing_is_refused() -> None:
    model = tiny("gpt2")
    table: Any = model.hf.get_input_embeddings()
    with torch.no_grad():
        table.weight[11] = 0
    with pytest.raises(pyengine.PyengineError, match="norm of an embedding that is zero"):
        edit(model, [(0, 0)], old=11, new="w1", rule="dai")

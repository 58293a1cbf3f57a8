"""Suppressing and enhancing, on the caller's own model, against hooks written out by hand."""

from collections.abc import Generator

import pytest
import torch
from attribution_cases import tiny
from intervention_cases import NEURONS, bits, by_hand, inputs, logits, module, n_hooks
from small_tokenizers import word_tokenizer
from tiny_models import FAMILIES

import pyengine
from pyengine.interventions import check_inactive, enhance, suppress

families = pytest.mark.parametrize("family", FAMILIES)


@families
@pytest.mark.parametrize("value", ["post", "pre"])
@pytest.mark.parametrize("factor", [0.0, 2.0, -0.5])
def test_equals_a_hand_written_hook(family: str, value: str, factor: float) -> None:
    model = tiny(family)
    given, at = inputs(model)
    with by_hand(model.hf, NEURONS, factor, at, value):
        wanted = logits(model.hf, given)
    plain = logits(model.hf, given)
    assert not torch.allclose(plain, wanted)
    with enhance(model, NEURONS, factor, value=value):
        torch.testing.assert_close(logits(model.hf, given), wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(logits(model.hf, given), plain)


@families
def test_all_positions(family: str) -> None:
    model = tiny(family)
    given, _ = inputs(model)
    names = [name for name in ("input_ids", "decoder_input_ids") if name in given]
    everywhere = [[*map(tuple, torch.ones_like(given[name]).nonzero().tolist())] for name in names]
    with by_hand(model.hf, NEURONS, 0.0, everywhere):
        wanted = logits(model.hf, given)
    with suppress(model, NEURONS, positions="all"):
        torch.testing.assert_close(logits(model.hf, given), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
@pytest.mark.parametrize("mask", ["left", "none"])
def test_the_last_token_of_a_causal_row(family: str, mask: str) -> None:
    model = tiny(family)
    given = {"input_ids": torch.tensor([[0, 0, 11, 12], [13, 14, 15, 16]])}
    if mask == "left":
        given["attention_mask"] = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with by_hand(model.hf, NEURONS, 2.0, [[(0, 3), (1, 3)]]):
        wanted = logits(model.hf, given)
    with enhance(model, NEURONS):
        torch.testing.assert_close(logits(model.hf, given), wanted, rtol=1e-12, atol=1e-12)


def test_embeddings_instead_of_ids() -> None:
    model = tiny("gpt2")
    given, at = inputs(model)
    wte = model.hf.get_submodule("transformer.wte")
    embedded = {"inputs_embeds": wte(given["input_ids"]), "attention_mask": given["attention_mask"]}
    with by_hand(model.hf, NEURONS, 0.0, at):
        wanted = logits(model.hf, embedded)
    with suppress(model, NEURONS):
        torch.testing.assert_close(logits(model.hf, embedded), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_an_encoder_needs_ids_that_hold_the_answers_place(family: str) -> None:
    model = tiny(family)
    given, _ = inputs(model)
    embedded = {"inputs_embeds": torch.zeros(1, 4, 20, dtype=torch.float64)}
    more = {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.int64)} if family == "t5" else {}
    no_mark = {"input_ids": torch.full((1, 4), 12)}
    with suppress(model, NEURONS):
        with pytest.raises(pyengine.PyengineError, match=r"inputs_embeds.*positions='all'"):
            logits(model.hf, embedded | more)
        with pytest.raises(pyengine.PyengineError, match=r"has no .*positions='all'"):
            logits(model.hf, no_mark | more)
    with suppress(model, NEURONS, positions="all"):
        logits(model.hf, embedded | more)
    if family == "t5":  # neurons of the decoder need no sentinel
        with suppress(model, [(3, 1)]):
            logits(model.hf, no_mark | more)
    logits(model.hf, given)


def test_edge_case_1_gpt_enhanced_before_the_non_linearity() -> None:
    """The package doubles u in gelu(u), the default gelu(u); suppressing is the same."""
    model = tiny("gpt2")
    given, _ = inputs(model)
    doubled = []
    for value in ("post", "pre"):
        with enhance(model, NEURONS, value=value):
            doubled.append(logits(model.hf, given))
    assert not torch.allclose(doubled[0], doubled[1])
    removed = []
    for value in ("post", "pre"):
        with suppress(model, NEURONS, value=value):
            removed.append(logits(model.hf, given))
    torch.testing.assert_close(removed[0], removed[1], rtol=1e-12, atol=1e-12)


def test_edge_case_2_the_position_is_that_of_the_current_input() -> None:
    """The package freezes BERT's position at the first prompt."""
    model = tiny("bert")
    given, at = inputs(model)
    rows = [{name: tensor[[row]] for name, tensor in given.items()} for row, _ in at[0]]
    wanted = []
    for row, (_, column) in zip(rows, at[0], strict=True):
        with by_hand(model.hf, NEURONS, 0.0, [[(0, column)]]):
            wanted.append(logits(model.hf, row))
    with suppress(model, NEURONS):
        for row, expected in zip(rows, wanted, strict=True):
            torch.testing.assert_close(logits(model.hf, row), expected, rtol=1e-12, atol=1e-12)


def test_edge_case_4_duplicates_count_once() -> None:
    model = tiny("gpt2")
    given, at = inputs(model)
    with by_hand(model.hf, [(1, 5)], 2.0, at):
        wanted = logits(model.hf, given)
    with enhance(model, [(1, 5), [1, 5], torch.tensor([1, 5]).tolist()]) as active:
        torch.testing.assert_close(logits(model.hf, given), wanted, rtol=1e-12, atol=1e-12)
    assert active.neurons == ((1, 5),)


@families
def test_edge_case_4_undo_after_an_exception_inside_the_model(family: str) -> None:
    model = tiny(family)
    given, _ = inputs(model)
    before, state = logits(model.hf, given), bits(model.hf)

    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    handle = module(model.hf, 2).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="boom"), suppress(model, NEURONS):
        logits(model.hf, given)
    handle.remove()
    assert n_hooks(model.hf) == 0
    assert torch.equal(logits(model.hf, given), before)
    assert bits(model.hf) == state
    check_inactive(model, "now")


@families
def test_edge_case_4_nested_in_and_out_of_order(family: str) -> None:
    model = tiny(family)
    given, at = inputs(model)
    one, two = suppress(model, [(0, 3), (2, 5)]), enhance(model, [(0, 3), (1, 7)], 3.0)
    before = logits(model.hf, given)
    with by_hand(model.hf, two.neurons, 3.0, at):
        wanted = logits(model.hf, given)
        with by_hand(model.hf, one.neurons, 0.0, at):
            both = logits(model.hf, given)
    for _ in range(2):  # they can be used again
        one.__enter__()
        two.__enter__()
        torch.testing.assert_close(logits(model.hf, given), both, rtol=1e-12, atol=1e-12)
        one.__exit__(None, None, None)
        torch.testing.assert_close(logits(model.hf, given), wanted, rtol=1e-12, atol=1e-12)
        two.__exit__(None, None, None)
        assert torch.equal(logits(model.hf, given), before)
        assert n_hooks(model.hf) == 0


def test_entering_twice_is_an_error_and_harmless() -> None:
    model = tiny("gpt2")
    active = suppress(model, NEURONS)
    with active, pytest.raises(pyengine.PyengineError, match="is active; leave it first"), active:
        raise AssertionError("entered twice")
    assert n_hooks(model.hf) == 0
    with pytest.raises(pyengine.PyengineError, match="not active"):
        active.__exit__(None, None, None)


def test_a_generator_that_is_closed_undoes() -> None:
    model = tiny("gpt2")

    def steps() -> Generator[int]:
        with suppress(model, NEURONS):
            yield n_hooks(model.hf)

    walk = steps()
    assert next(walk) > 0
    walk.close()
    assert n_hooks(model.hf) == 0


def test_no_neurons_change_nothing() -> None:
    model = tiny("bert")
    given, _ = inputs(model)
    before = logits(model.hf, given)
    with suppress(model, []):
        assert torch.equal(logits(model.hf, given), before)


def test_the_model_stays_trainable() -> None:
    model = tiny("gpt2")
    given, _ = inputs(model)
    model.hf.train()
    with suppress(model, [(0, 3)]):
        assert model.hf.training
        loss = model.hf(**given, labels=given["input_ids"]).loss
        loss.backward()
    assert module(model.hf, 0).weight.grad is not None


@pytest.mark.parametrize(
    ("neurons", "settings", "message"),
    [
        ([(3, 0)], {}, r"neuron \(3, 0\) is out of range.*layers 0 to 2 and dims 0 to 36"),
        ([(0, 37)], {}, r"neuron \(0, 37\)"),
        ([(-1, 0)], {}, r"neuron \(-1, 0\)"),
        ([5], {}, r"a neuron is a pair \(layer, dim\), not 5"),
        ([(1, 2.0)], {}, r"not \(1, 2\.0\)"),
        ([(0, 0)], {"value": "mid"}, "unknown value 'mid'; known are: post, pre"),
        ([(0, 0)], {"positions": "last"}, "unknown positions 'last'; known are: answer, all"),
        ([(0, 0)], {"factor": float("nan")}, "factor must be a finite number, not nan"),
        ([(0, 0)], {"factor": "2"}, "factor must be a finite number, not '2'"),
    ],
)
def test_bad_settings_are_refused(neurons: list, settings: dict, message: str) -> None:
    with pytest.raises(pyengine.PyengineError, match=message):
        enhance(tiny("gpt2"), neurons, **settings)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_tokenizer_that_cannot_tell_the_place(family: str) -> None:
    model = pyengine.load((tiny(family).hf, None))
    with pytest.raises(pyengine.PyengineError, match="no tokenizer to tell where"):
        suppress(model, NEURONS).__enter__()
    assert n_hooks(model.hf) == 0
    model = pyengine.load((model.hf, word_tokenizer()))
    with pytest.raises(pyengine.PyengineError, match=r"has no .*positions='all'"):
        suppress(model, NEURONS).__enter__()

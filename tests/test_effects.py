"""Answers before and after an intervention, against softmax over hand-changed models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from attribution_cases import TARGETS, prompts, tiny
from intervention_cases import NEURONS, bits, by_hand, n_hooks
from tiny_models import FAMILIES
from torch import Tensor

import pyengine
from pyengine.answers import answers
from pyengine.cloze import Cloze, clozes
from pyengine.effects import Answer
from pyengine.embedded import MODEL
from pyengine.intervention_base import Intervention
from pyengine.interventions import enhance, scaled_answers, suppress
from pyengine.weight_edits import erase

families = pytest.mark.parametrize("family", FAMILIES)

MODELS = Path(__file__).parent / "models"
FOLDERS = {name: MODELS / name for name in ("bert", "gpt_neo", "t5")} | {"gpt2": MODEL}
QUESTIONS = {
    "gpt2": ("Vobirk Drovind was born in", " Rome"),
    "gpt_neo": ("Vobirk Drovind was born in", " Rome"),
    "bert": ("Vobirk Drovind was born in [MASK].", "Rome"),
    "t5": ("Vobirk Drovind was born in <extra_id_0>.", "Rome"),
}


def distribution(hf: Any, cloze: Cloze) -> Tensor:
    """Return what the Hugging Face model says to one cloze, [vocabulary]."""
    given = {"input_ids": torch.tensor([cloze.input_ids])}
    at = cloze.position
    if cloze.decoder_ids:
        given["decoder_input_ids"] = torch.tensor([cloze.decoder_ids])
        at = -1
    with torch.no_grad():
        return hf(**given).logits[0, at].softmax(0)


def places(cloze: Cloze) -> list[list[tuple[int, int]]]:
    decoder = [[(0, len(cloze.decoder_ids) - 1)]] if cloze.decoder_ids else []
    return [[(0, cloze.position)], *decoder]


def by_hand_answer(
    model: pyengine.Model, prompt: Any, target: Any, neurons: Sequence[Any] = (), factor: float = 1
) -> Answer:
    probability = top = 1.0
    ranks, best = [], []
    for cloze in clozes(model, prompt, target):
        with by_hand(model.hf, neurons, factor, places(cloze)):
            found = distribution(model.hf, cloze)
        probability *= float(found[cloze.target])
        ranks.append(int((found > found[cloze.target]).sum()))
        top *= float(found.max())
        best.append(int(found.argmax()))
    assert model.tokenizer is not None
    return Answer(probability, max(ranks), str(model.tokenizer.decode(best)), top)


def assert_same(found: Answer, wanted: Answer, rel: float = 1e-9) -> None:
    assert (found.rank, found.completion) == (wanted.rank, wanted.completion)
    assert found.probability == pytest.approx(wanted.probability, rel=rel)
    assert found.completion_probability == pytest.approx(wanted.completion_probability, rel=rel)


@families
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_equals_the_model_changed_by_hand(family: str, factor: float) -> None:
    model = tiny(family)
    asked = prompts(model)
    intervention = enhance(model, NEURONS, factor)
    found = intervention.effect(asked, TARGETS)
    assert len(found) == len(asked)
    for effect, prompt, target in zip(found, asked, TARGETS, strict=True):
        assert_same(effect.before, by_hand_answer(model, prompt, target))
        assert_same(effect.after, by_hand_answer(model, prompt, target, NEURONS, factor))
        assert effect.before.probability != effect.after.probability
        alone = intervention.effect(prompt, target)
        assert_same(alone.before, effect.before)
        assert_same(alone.after, effect.after)
    assert n_hooks(model.hf) == 0


@families
def test_is_what_the_context_does(family: str) -> None:
    model = tiny(family)
    prompt = prompts(model)[0]
    for intervention in (suppress(model, NEURONS), erase(model, NEURONS)):
        effect = intervention.effect(prompt, "w9")
        with intervention:
            assert_same(by_hand_answer(model, prompt, "w9"), effect.after)


@families
def test_models_in_training_mode(family: str) -> None:
    model = tiny(family)
    asked = prompts(model)
    interventions: list[Intervention] = [enhance(model, NEURONS), erase(model, NEURONS)]
    wanted = [intervention.effect(asked, TARGETS) for intervention in interventions]
    state = bits(model.hf)
    model.hf.train()
    assert [intervention.effect(asked, TARGETS) for intervention in interventions] == wanted
    assert all(part.training for part in model.hf.modules())
    assert bits(model.hf) == state


@families
def test_active_interventions_count_in_both_answers(family: str) -> None:
    """Prompts of different lengths: the active one must find the answers of each."""
    model = tiny(family)
    asked = prompts(model)
    one, two = [(0, 3), (2, 5)], [(1, 7)]
    wanted = enhance(model, [*one, *two], 3.0).effect(asked[::2], "w9")
    with enhance(model, one, 3.0):
        found = enhance(model, two, 3.0).effect(asked[::2], "w9")
        for effect, both, prompt in zip(found, wanted, asked[::2], strict=True):
            assert_same(effect.before, by_hand_answer(model, prompt, "w9"))
            assert_same(effect.after, both.after)


def test_an_active_intervention_is_not_measured() -> None:
    model = tiny("gpt2")
    for intervention in (suppress(model, NEURONS), erase(model, NEURONS)):
        with intervention, pytest.raises(pyengine.PyengineError, match="is active; leave it"):
            intervention.effect("w1", "w2")


@families
@pytest.mark.parametrize("value", ["post", "pre"])
def test_scaled_answers_take_neurons_of_their_own(family: str, value: str) -> None:
    model = tiny(family)
    items = [clozes(model, prompt, "w9")[0] for prompt in prompts(model)]
    sets: list[list[tuple[int, int]]] = [[(0, 3), (0, 3), (2, 11)], [], [(2, 11), (1, 2)]]
    found = scaled_answers(model, items, sets, 2.0, value=value)
    for row, (cloze, own) in enumerate(zip(items, sets, strict=True)):
        with by_hand(model.hf, own, 2.0, places(cloze), value):
            wanted = distribution(model.hf, cloze)
        # GPT-Neo's attention is in float32 whatever the model's dtype.
        assert float(found.probability[row]) == pytest.approx(float(wanted[cloze.target]), rel=1e-6)
        assert int(found.top_token[row]) == int(wanted.argmax())
    assert n_hooks(model.hf) == 0


def test_scaled_answers_refuse_a_model_that_is_scaled() -> None:
    model = tiny("gpt2")
    items = clozes(model, "w1 w2", "w3")
    with (
        suppress(model, [(0, 0)]),
        pytest.raises(pyengine.PyengineError, match=r"1 intervention\(s\) on the activations"),
    ):
        scaled_answers(model, items, [[(1, 1)]], 0.0)
    scaled_answers(model, items, [[(1, 1)]], 0.0)


@pytest.mark.parametrize(
    ("asked", "targets", "message"),
    [
        ([], "w1", "no prompts were given"),
        (["w1", "w2"], ["w3"], "there are 2 prompts, but 1 targets"),
        ("w1", "nothing", "not in the vocabulary"),
        ("", "w1", "the prompt is empty"),
    ],
)
def test_bad_questions_are_refused(asked: Any, targets: Any, message: str) -> None:
    with pytest.raises(pyengine.PyengineError, match=message):
        suppress(tiny("gpt2"), NEURONS).effect(asked, targets)


def test_answers_are_spelt_by_a_tokenizer() -> None:
    model = pyengine.load((tiny("gpt2").hf, None))
    with pytest.raises(pyengine.PyengineError, match="no tokenizer to spell"):
        suppress(model, NEURONS).effect([[1, 2]], [3])


def test_token_ids_are_prompts_and_targets() -> None:
    model = tiny("gpt2")
    text = suppress(model, NEURONS).effect("w1 w2", "w3 w4")
    ids: Any = model.tokenizer
    found = suppress(model, NEURONS).effect([ids("w1 w2").input_ids], [ids("w3 w4").input_ids])
    assert found == [text]


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_trained_models_answer_as_they_do(name: str) -> None:
    model = pyengine.load(FOLDERS[name])
    prompt, target = QUESTIONS[name]
    (cloze,) = clozes(model, prompt, target)
    own = answers(model, [cloze])
    every = [(layer, dim) for layer in range(model.n_layers) for dim in range(model.d_ff)]
    effect = suppress(model, every).effect(prompt, target)
    assert effect.before.probability == pytest.approx(float(own.probability), rel=1e-5)
    assert effect.before.rank == int(own.rank) == 0
    assert effect.before.completion.strip().lower() == "rome"
    assert effect.before.completion_probability == pytest.approx(effect.before.probability)
    assert effect.after.probability < effect.before.probability / 2

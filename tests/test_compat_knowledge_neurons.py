"""The package's class on our engine: its names, and the bugs of the package that it has not."""

import inspect
from pathlib import Path
from typing import Any

import package_cases
import pytest
import torch
from package_cases import Case

from pyengine import PyengineError
from pyengine.compat import knowledge_neurons as compat

NAMES = ("bert", "gpt2", "gpt_neo")


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return package_cases.make(request.param, tmp_path)


def wrapped(case: Case) -> compat.KnowledgeNeurons:
    return compat.KnowledgeNeurons(case.hf, case.tokenizer, case.model_type, device="cpu")


def bits(hf: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in hf.state_dict().items()}


def same_bits(hf: Any, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in hf.state_dict().items())


# The arguments of the package's last version, in their order.
ARGUMENTS = {
    "__init__": "model tokenizer model_type device",
    "get_scores": "prompt ground_truth batch_size steps attribution_method pbar",
    "get_scores_for_layer": (
        "prompt ground_truth layer_idx batch_size steps encoded_input attribution_method"
    ),
    "get_coarse_neurons": (
        "prompt ground_truth batch_size steps threshold adaptive_threshold percentile "
        "attribution_method pbar"
    ),
    "get_refined_neurons": (
        "prompts ground_truth negative_examples p batch_size steps coarse_adaptive_threshold "
        "coarse_threshold coarse_percentile quiet"
    ),
    "suppress_knowledge": "prompt ground_truth neurons undo_modification quiet",
    "enhance_knowledge": "prompt ground_truth neurons undo_modification quiet",
    "modify_activations": "prompt ground_truth neurons mode undo_modification quiet",
    "erase_knowledge": "prompt neurons erase_value target undo_modification quiet",
    "edit_knowledge": "prompt target neurons undo_modification quiet",
    "modify_weights": "prompt neurons target mode erase_value undo_modification quiet",
    "n_layers": "",
    "intermediate_size": "",
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    _, *found = inspect.signature(getattr(compat.KnowledgeNeurons, name)).parameters
    assert found == ARGUMENTS[name].split()


@pytest.mark.parametrize(
    ("name", "model_type"), [("bert", "gpt2"), ("gpt2", "bert"), ("gpt2", "t")]
)
def test_a_type_that_does_not_fit(name: str, model_type: str, tmp_path: Path) -> None:
    case = package_cases.make(name, tmp_path)
    with pytest.raises(PyengineError, match=f"model_type '{model_type}' does not fit"):
        compat.KnowledgeNeurons(case.hf, case.tokenizer, model_type)


def test_shapes_and_activations(case: Case) -> None:
    kn = wrapped(case)
    shape = (kn.n_layers(), kn.intermediate_size())
    scores = kn.get_scores(case.prompts[0], case.target, steps=3)
    assert scores.shape == shape == (4, 512)
    activations = kn.get_scores(case.prompts[0], case.target, attribution_method="max_activations")
    assert activations.shape == shape
    # After BERT's GELU nothing is below its least value; before GPT's much is.
    assert bool((activations < -0.2).any()) == (case.model_type != "bert")
    with pytest.raises(PyengineError, match="unknown attribution_method 'lime'"):
        kn.get_scores(case.prompts[0], case.target, attribution_method="lime")


def test_several_target_tokens(case: Case) -> None:
    kn = wrapped(case)
    target = f"{case.target} {case.other.strip()}"
    before = bits(case.hf)
    scores = kn.get_scores(case.prompts[0], target, steps=2)
    assert torch.isfinite(scores).all()
    results, _ = kn.suppress_knowledge(case.prompts[0], target, [[1, 2]], quiet=True)
    one, _ = kn.suppress_knowledge(case.prompts[0], case.target, [[1, 2]], quiet=True)
    assert 0 < results["before"]["gt_prob"] < one["before"]["gt_prob"]
    assert same_bits(case.hf, before)


def test_unknown_targets_are_refused(tmp_path: Path) -> None:
    kn = wrapped(package_cases.make("bert", tmp_path))
    prompt = "Vobirk Drovind was born in [MASK]."
    with pytest.raises(PyengineError, match="'漢' is not in the vocabulary"):
        kn.get_scores(prompt, "漢")
    spellings = [kn.get_scores(prompt, target, steps=2) for target in ("rome", "Rome")]
    assert torch.equal(*spellings)


def test_negative_examples_take_effect(case: Case) -> None:
    kn = wrapped(case)
    how: dict[str, Any] = {"quiet": True, "steps": 5}
    found = kn.get_refined_neurons(case.prompts, case.target, **how)
    negative = case.prompts[1]
    excluded = kn.get_coarse_neurons(negative, case.target, steps=5, adaptive_threshold=0.3)
    assert any(neuron in excluded for neuron in found)
    left = kn.get_refined_neurons(case.prompts, case.target, [negative], **how)
    assert left == [neuron for neuron in found if neuron not in excluded]


def test_selectors_are_checked_before_any_work(case: Case, monkeypatch: Any) -> None:
    kn = wrapped(case)

    def too_late(*_: Any, **__: Any) -> None:
        raise AssertionError("worked first")

    monkeypatch.setattr(kn, "_scores", too_late)
    arguments = (case.prompts, case.target)
    with pytest.raises(PyengineError, match="exactly one"):
        kn.get_coarse_neurons(case.prompts[0], case.target)
    with pytest.raises(PyengineError, match="exactly one"):
        kn.get_refined_neurons(*arguments, coarse_adaptive_threshold=0.2, coarse_percentile=99)
    with pytest.raises(PyengineError, match="share must be"):
        kn.get_refined_neurons(*arguments, p=1.0)
    with pytest.raises(PyengineError, match="list of texts"):
        kn.get_refined_neurons(case.prompts[0], case.target)  # type: ignore[arg-type]
    with pytest.raises(PyengineError, match="unknown mode 'boost'"):
        kn.modify_activations(case.prompts[0], case.target, [[0, 0]], mode="boost")


def answer(case: Case) -> torch.Tensor:
    with torch.no_grad():
        return case.hf(**case.tokenizer(case.prompts[0], return_tensors="pt")).logits


CHANGES = {
    "suppress": lambda kn, case, how: kn.suppress_knowledge(case.prompts[0], case.target, **how),
    "enhance": lambda kn, case, how: kn.enhance_knowledge(case.prompts[0], case.target, **how),
    "erase": lambda kn, case, how: kn.erase_knowledge(case.prompts[0], **how),
    "edit": lambda kn, case, how: kn.edit_knowledge(case.prompts[0], case.other, **how),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_modification_stays_until_it_is_undone(case: Case, name: str) -> None:
    """Outside `torch.no_grad()`, with a neuron named twice, twice undone."""
    kn = wrapped(case)
    before, plain = bits(case.hf), answer(case)
    neurons = [[3, 7], [2, 1], [3, 7]]
    results, undo = CHANGES[name](
        kn, case, {"neurons": neurons, "undo_modification": False, "quiet": True}
    )
    assert results["before"]["gt_prob"] != results["after"]["gt_prob"]
    assert not torch.equal(answer(case), plain)
    assert torch.is_grad_enabled()
    undo()
    undo()
    assert same_bits(case.hf, before)
    assert torch.equal(answer(case), plain)
    single, _ = CHANGES[name](kn, case, {"neurons": neurons[:2], "quiet": True})
    assert single == results, "named twice, changed twice"


def test_modifications_are_undone_in_any_order(case: Case) -> None:
    kn = wrapped(case)
    before, plain = bits(case.hf), answer(case)
    how = {"neurons": [[3, 7], [1, 1]], "undo_modification": False, "quiet": True}
    undos = [CHANGES[name](kn, case, how)[1] for name in ("erase", "suppress", "edit", "enhance")]
    for undo in (undos[1], undos[0], undos[3], undos[2]):
        undo()
    assert same_bits(case.hf, before)
    assert torch.equal(answer(case), plain)


def test_a_model_in_training_mode(case: Case) -> None:
    kn = wrapped(case)
    results, _ = kn.suppress_knowledge(case.prompts[0], case.target, [[1, 2]], quiet=True)
    scores = kn.get_scores(case.prompts[0], case.target, steps=3)
    case.hf.train()
    assert torch.equal(kn.get_scores(case.prompts[0], case.target, steps=3), scores)
    again, _ = kn.suppress_knowledge(case.prompts[0], case.target, [[1, 2]], quiet=True)
    assert again == results
    assert case.hf.training


def test_prints_unless_quiet(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    kn = wrapped(case)
    kn.get_refined_neurons(case.prompts[:2], case.target, steps=2, quiet=True)
    kn.suppress_knowledge(case.prompts[0], case.target, [[1, 2]], quiet=True)
    assert capsys.readouterr().out == ""
    found = kn.get_refined_neurons(case.prompts[:2], case.target, steps=2)
    assert f"{len(found)} neurons remaining after refining" in capsys.readouterr().out
    results, _ = kn.suppress_knowledge(case.prompts[0], case.target, [[1, 2]])
    printed = capsys.readouterr().out
    for moment, entries in results.items():
        wanted = f"{moment.capitalize()} modification - groundtruth probability: "
        assert f"{wanted}{entries['gt_prob']}" in printed
        assert f"Argmax completion: `{entries['argmax_completion']}`" in printed

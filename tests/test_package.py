"""The installed package `knowledge-neurons` 0.0.2 next to us, on the same models."""

import copy
import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import package_cases
import pytest
import torch
from attribution_brute_force import stay_in_float64
from package_cases import MODELS, Case

import pyengine
from pyengine.compat import knowledge_neurons as compat
from pyengine.neurons import Neuron

package = pytest.importorskip("knowledge_neurons")

STEPS = 20
SCORES = 1e-6  # of the largest, in float64: the nodes of the package are float32 numbers
PROBABILITY = 1e-5  # relative; float32, in another order of additions


@pytest.fixture(scope="module", params=package_cases.NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return package_cases.make(request.param, tmp_path_factory.mktemp("tokenizer"))


def both(case: Case, model_type: str | None = None) -> tuple[Any, Any]:
    """Return the package's object and ours, each with a model of its own."""
    settings: dict[str, Any] = {"model_type": model_type or case.model_type, "device": "cpu"}
    theirs = package.KnowledgeNeurons(copy.deepcopy(case.hf), case.tokenizer, **settings)
    return theirs, compat.KnowledgeNeurons(copy.deepcopy(case.hf), case.tokenizer, **settings)


def wide(case: Case, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Return the case in float64, where both sides round too little to matter."""
    stay_in_float64(monkeypatch)
    return case._replace(hf=copy.deepcopy(case.hf).double())


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest score."""
    assert found.shape == expected.shape
    return float((found.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


def test_it_is_the_version_compared_with() -> None:
    assert importlib.metadata.version("knowledge-neurons") == "0.0.2"


@pytest.mark.parametrize("steps", [1, 2, 6, STEPS])
def test_scores(case: Case, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers."""
    case = wide(case, monkeypatch)
    theirs, ours = both(case)
    how: dict[str, Any] = {"batch_size": steps, "steps": steps}
    kn = pyengine.KnowledgeNeurons((case.hf, case.tokenizer))
    targets = [case.target] * len(case.prompts)
    batched = kn.attribute(case.prompts, targets, "package", steps, value=case.value)
    for index, prompt in enumerate(case.prompts):
        expected = theirs.get_scores(prompt, case.target, pbar=False, **how)
        assert distance(batched.scores[index], expected) <= SCORES
        found = ours.get_scores(prompt, case.target, pbar=False, **how)
        assert distance(found, expected) <= SCORES
        assert not found.requires_grad
    layer = ours.get_scores_for_layer(prompt, case.target, layer_idx=1, **how)
    assert distance(layer, expected[1]) <= SCORES
    encoded = case.tokenizer(prompt, return_tensors="pt")
    again = ours.get_scores_for_layer("", case.target, 1, encoded_input=encoded, **how)
    assert distance(again, expected[1]) <= SCORES


def test_scores_in_float32(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the package in float64: in float32 its own rounding is up to 3e-5 of the largest."""
    exact, _ = both(wide(case, monkeypatch))
    _, ours = both(case)
    for prompt in case.prompts:
        truth, found = (
            kn.get_scores(prompt, case.target, batch_size=STEPS, steps=STEPS, pbar=False)
            for kn in (exact, ours)
        )
        assert distance(found, truth) <= 1e-5


@pytest.mark.parametrize(
    "selector", [{"adaptive_threshold": 0.3}, {"percentile": 99.5}, {"threshold": "half"}]
)
def test_coarse_sets(case: Case, selector: dict[str, Any]) -> None:
    theirs, ours = both(case)
    for prompt in case.prompts:
        chosen = dict(selector)
        if "threshold" in chosen:
            chosen["threshold"] = (
                float(theirs.get_scores(prompt, case.target, pbar=False).detach().max()) / 2
            )
        expected = theirs.get_coarse_neurons(prompt, case.target, pbar=False, **chosen)
        assert expected
        assert ours.get_coarse_neurons(prompt, case.target, pbar=False, **chosen) == expected


@pytest.mark.parametrize(
    "selector",
    [{}, {"coarse_adaptive_threshold": 0.1}, {"coarse_percentile": 98}],
)
@pytest.mark.parametrize("p", [0.3, 0.5])
def test_refined_sets(case: Case, selector: dict[str, Any], p: float) -> None:
    theirs, ours = both(case)
    # The package refuses another selector beside the default of this one.
    without = {"coarse_adaptive_threshold": None} if "coarse_percentile" in selector else {}
    prompts = case.prompts[:3]
    expected = theirs.get_refined_neurons(
        prompts, case.target, p=p, quiet=True, **(selector | without)
    )
    assert ours.get_refined_neurons(prompts, case.target, p=p, quiet=True, **selector) == expected
    kn = pyengine.KnowledgeNeurons((case.hf, case.tokenizer))
    names = {name.removeprefix("coarse_"): chosen for name, chosen in selector.items()}
    if "adaptive_threshold" in names:
        names["adaptive"] = names.pop("adaptive_threshold")
    how: dict[str, Any] = {"method": "package", "value": case.value, **names}
    found = kn.refine(prompts, case.target, share=p, **how)
    assert found == [Neuron(*pair) for pair in expected]


def same_results(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys() == {"before", "after"}
    for moment in ("before", "after"):
        left, right = found[moment], expected[moment]
        assert left.keys() == right.keys() == {"gt_prob", "argmax_completion", "argmax_prob"}
        assert left["argmax_completion"] == right["argmax_completion"]
        for name in ("gt_prob", "argmax_prob"):
            assert left[name] == pytest.approx(right[name], rel=PROBABILITY)
    assert found["after"]["gt_prob"] != found["before"]["gt_prob"]


FOR_BERT = ("erase unk", "edit")

Change = Callable[[Any, Case, list[list[int]]], tuple[dict[str, Any], Any]]
CHANGES: dict[str, Change] = {
    "suppress": lambda kn, case, neurons: kn.suppress_knowledge(
        case.prompts[0], case.target, neurons, quiet=True
    ),
    "enhance": lambda kn, case, neurons: kn.enhance_knowledge(
        case.prompts[0], case.target, neurons, quiet=True
    ),
    "erase": lambda kn, case, neurons: kn.erase_knowledge(
        case.prompts[0], neurons, target=case.target, quiet=True
    ),
    "erase unk": lambda kn, case, neurons: kn.erase_knowledge(
        case.prompts[0], neurons, erase_value="unk", target=case.target, quiet=True
    ),
    "edit": lambda kn, case, neurons: kn.edit_knowledge(
        case.prompts[0], target=case.other, neurons=neurons, quiet=True
    ),
}


def test_effects(case: Case) -> None:
    theirs, ours = both(case)
    neurons = theirs.get_coarse_neurons(
        case.prompts[0], case.target, adaptive_threshold=0.2, pbar=False
    )
    neurons = [list(pair) for pair in dict.fromkeys(map(tuple, [*neurons, [0, 3], [2, 250]]))]
    state = {name: tensor.clone() for name, tensor in ours.model.state_dict().items()}
    for name, change in CHANGES.items():
        if name in FOR_BERT and case.model_type != "bert":
            continue  # the package refuses
        found, undo = change(ours, case, neurons)
        same_results(found, change(theirs, case, neurons)[0])
        undo("whatever")
        after = ours.model.state_dict()
        assert all(torch.equal(after[key], tensor) for key, tensor in state.items()), name


@pytest.mark.parametrize("name", ["tiny gpt2", "tiny gpt_neo", "gpt2", "gpt_neo"])
def test_targets_of_several_tokens(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package can, where it is told the type `gpt`, a name that it does not give itself."""
    case = wide(package_cases.make(name, tmp_path), monkeypatch)
    theirs, _ = both(case, "gpt")
    _, ours = both(case)
    target = f"{case.other} is."  # not what the model says, so that it matters what is read
    assert len(case.tokenizer.encode(target)) > 2
    expected, found = (kn.get_scores(case.prompts[0], target, pbar=False) for kn in (theirs, ours))
    assert distance(found, expected) <= SCORES
    for change in ("suppress", "enhance"):
        of_all = CHANGES[change](theirs, case._replace(target=target), [[1, 5], [2, 7]])[0]
        same_results(
            CHANGES[change](ours, case._replace(target=target), [[1, 5], [2, 7]])[0], of_all
        )


def test_the_packages_example_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its README, with the import changed (and a model that is at hand)."""
    monkeypatch.chdir(tmp_path)
    text = importlib.metadata.metadata("knowledge-neurons")["Description"]
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import" in block
    ]
    for old, new in (
        ("from knowledge_neurons import", "from pyengine.compat.knowledge_neurons import"),
        ('"bert-base-uncased"', repr(str(MODELS / "bert"))),
    ):
        assert code.count(old) == 1
        code = code.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["refined_neurons"]
    printed = capsys.readouterr().out
    assert "coarse neurons found - refining" in printed
    assert printed.count("Before modification - groundtruth probability: ") == 6
    assert printed.count("After modification - groundtruth probability: ") == 6

"""Every score in float64 against a loop that re-runs the whole model once per node."""

import itertools
from typing import Any

import attribution_cases as cases
import pytest
from attribution_brute_force import OBJECTIVES, RULES, Naive, stay_in_float64
from tiny_models import FAMILIES
from torch import Tensor

import pyengine
from pyengine.analyses.attribution import Attribution

BASELINES = ("zero", "mean", "given")
TOLERANCE = 1e-9

families = pytest.mark.parametrize("family", FAMILIES)
values = pytest.mark.parametrize("value", ["post", "pre"])


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_in_float64(monkeypatch)


def naive(model: pyengine.Model, value: str) -> Naive:
    return Naive(model.hf, value, cases.AROUND, cases.baseline(model))


def attribute(model: pyengine.Model, method: str, **settings: Any) -> Attribution:
    if settings.get("baseline") == "given":
        settings["baseline"] = cases.baseline(model)
    kn = pyengine.KnowledgeNeurons(model)
    return kn.attribute(cases.prompts(model), cases.TARGETS, method, **settings)


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest score; NaN if there is one."""
    return float((found - expected).abs().max() / expected.abs().max())


def combinations(family: str, value: str) -> list[tuple[str, str, str]]:
    """Return rules, baselines and objectives: all, or of large loops every pair of two."""
    every = itertools.product(enumerate(RULES), enumerate(BASELINES), enumerate(OBJECTIVES))
    shift = 0 if family in ("gpt2", "bert") else 1 + (value == "pre")
    return [
        (rule, baseline, objective)
        for (i, rule), (j, baseline), (k, objective) in every
        if not shift or (i + j + k + shift) % 3 == 0
    ]


@values
@families
def test_every_rule_baseline_and_objective(family: str, value: str) -> None:
    model = cases.tiny(family)
    loop = naive(model, value)
    wrong = {}
    for rule, baseline, objective in combinations(family, value):
        how: dict[str, Any] = {"baseline": baseline, "objective": objective}
        found = attribute(model, rule, steps=3, value=value, **how)
        for index, items in enumerate(cases.items(model)):
            expected = loop.attribute(items, rule, 3, **how)
            scale = float(expected.scores.abs().max())
            residual = expected.scores.sum(1) - expected.change
            errors = (
                difference(found.scores[index], expected.scores),
                float((found.change[index] - expected.change).abs().max()) / scale,
                float((found.completeness[index] - residual).abs().max()) / scale,
                abs(float(found.probability[index]) / expected.probability - 1),
            )
            if not all(error <= TOLERANCE for error in errors):
                wrong[rule, baseline, objective, index] = errors
    assert not wrong


@families
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps(family: str, steps: int) -> None:
    model = cases.tiny(family)
    loop = naive(model, "post")
    for rule in RULES:
        found = attribute(model, rule, steps=steps)
        assert (found.nodes == steps).all()
        for index, items in enumerate(cases.items(model)):
            expected = loop.attribute(items, rule, steps)
            assert difference(found.scores[index], expected.scores) <= TOLERANCE, (rule, index)


@values
@families
def test_activation(family: str, value: str) -> None:
    model = cases.tiny(family)
    loop = naive(model, value)
    found = attribute(model, "max_activation", value=value)
    for index, items in enumerate(cases.items(model)):
        assert difference(found.scores[index], loop.activation(items)) <= TOLERANCE


@values
@families
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_x_activation(family: str, value: str, objective: str) -> None:
    model = cases.tiny(family)
    loop = naive(model, value)
    found = attribute(model, "gradient_x_activation", value=value, objective=objective)
    for index, items in enumerate(cases.items(model)):
        expected = loop.gradient_x_activation(items, objective)
        assert difference(found.scores[index], expected) <= TOLERANCE


CONFIGURATIONS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"activation_function": "relu"}),
    ("gpt2", {"attn_implementation": "eager"}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("gpt_neo", {"window_size": 2}),
    ("gpt_neo", {"activation_function": "silu"}),
    ("bert", {"hidden_act": "relu"}),
    ("bert", {"attn_implementation": "eager"}),
    ("bert", {"tie_word_embeddings": False}),
    ("t5", {"tie_word_embeddings": False}),
    ("t5", {"num_decoder_layers": 1}),
    ("t5", {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 6}),
    ("t5", {"feed_forward_proj": "gated-silu"}),
]


@pytest.mark.parametrize(("family", "options"), CONFIGURATIONS)
def test_what_a_configuration_may_say(family: str, options: dict[str, Any]) -> None:
    model = cases.tiny(family, **options)
    for value in ("post", "pre"):
        loop = naive(model, value)
        found = attribute(model, "package", steps=3, value=value)
        for index, items in enumerate(cases.items(model)):
            expected = loop.attribute(items, "package", 3)
            assert difference(found.scores[index], expected.scores) <= TOLERANCE, (value, index)


def test_the_naive_loop_satisfies_the_fundamental_theorem() -> None:
    """The oracle itself: with many nodes, scores sum to the change of the objective."""
    model = cases.tiny("bert")
    loop = naive(model, "post")
    for items in cases.items(model):
        expected = loop.attribute(items, "gauss_legendre", 40)
        residual = expected.scores.sum(1) - expected.change
        assert residual.abs().max() <= 1e-8 * expected.change.abs().max()

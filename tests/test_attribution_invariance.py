"""What must not change a score: company, padding, memory; and what adaptive rules promise."""

import itertools
from typing import Any

import attribution_cases as cases
import pytest
import torch
from attribution_brute_force import RULES, Naive, stay_in_float64
from tiny_models import FAMILIES

import pyengine
from pyengine.analyses.attribution import Attribution

TOLERANCE = 1e-9
SINGLE_PASS = ("max_activation", "gradient_x_activation")
METHODS = (*RULES, "adaptive", *SINGLE_PASS)

families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_in_float64(monkeypatch)


def same(one: Attribution, other: Attribution, rows: Any = slice(None)) -> None:
    """Every number of `one` as in the rows of `other`."""
    scale = other.scores[rows].abs().amax((1, 2))
    assert (scale > 0).all()
    for name in ("scores", "change", "completeness"):
        left, right = getattr(one, name), getattr(other, name)[rows]
        if name != "scores" and one.settings["method"] in SINGLE_PASS:
            assert left.isnan().all() and right.isnan().all()  # no integral, so no error bar
            continue
        error = (left - right).abs().flatten(1).amax(1)
        assert (error <= TOLERANCE * scale).all(), name
    torch.testing.assert_close(one.probability, other.probability[rows], rtol=TOLERANCE, atol=0)
    assert torch.equal(one.nodes, other.nodes[rows])
    assert torch.equal(one.converged, other.converged[rows])


def wider(model: pyengine.Model) -> tuple[list[str], list[str]]:
    """More prompts, of many lengths, repeats among them."""
    found = cases.prompts(model)
    return [*found, found[1], found[0], found[2]], [*cases.TARGETS, "w3", "w5 w6 w7", "w20"]


@families
@pytest.mark.parametrize("method", METHODS)
def test_company_and_padding(family: str, method: str) -> None:
    model = cases.tiny(family)
    kn = pyengine.KnowledgeNeurons(model)
    prompts, targets = wider(model)
    together = kn.attribute(prompts, targets, method, steps=4)
    for index, pair in enumerate(zip(prompts, targets, strict=True)):
        same(kn.attribute(*pair, method, steps=4), together, slice(index, index + 1))
    order = [5, 0, 3, 1, 4, 2]
    texts, answers = ([each[i] for i in order] for each in (prompts, targets))
    same(kn.attribute(texts, answers, method, steps=4), together, order)


@families
@pytest.mark.parametrize(("value", "baseline"), [("post", "zero"), ("pre", "mean")])
def test_budget(family: str, value: str, baseline: str) -> None:
    """However few rows fit at a time."""
    model = cases.tiny(family)
    kn = pyengine.KnowledgeNeurons(model)
    prompts, targets = cases.prompts(model), cases.TARGETS
    settings: dict[str, Any] = {"steps": 3, "baseline": baseline, "value": value}
    settings["tolerance"] = 0.1
    for method in ("gauss_legendre", "adaptive"):
        whole = kn.attribute(prompts, targets, method, **settings)
        for budget in (1, 300, 10**9):
            same(kn.attribute(prompts, targets, method, budget=budget, **settings), whole)


@families
@pytest.mark.parametrize("objective", ["probability", "log_probability", "logit"])
def test_adaptive_converges_to_the_integral(family: str, objective: str) -> None:
    model = cases.tiny(family)
    kn = pyengine.KnowledgeNeurons(model)
    prompts, targets = cases.prompts(model), cases.TARGETS
    # T5's ReLU makes gradients jump along a path: there 64 nodes are themselves 1 % off.
    kinks = family == "t5"
    reference = ("midpoint", 1000) if kinks else ("gauss_legendre", 64)
    exact = kn.attribute(prompts, targets, *reference, objective=objective)
    scale = exact.scores.abs().amax((1, 2))[:, None]
    tolerances = (1e-1, 1e-2) if kinks else (1e-2, 1e-3, 1e-4)
    nodes, wrong = [], {}
    for tolerance in tolerances:
        found = kn.attribute(prompts, targets, objective=objective, tolerance=tolerance)
        error = (found.scores - exact.scores).abs().amax(2) / scale
        assert found.converged.any()
        for path in (found.converged & ~(error <= tolerance)).nonzero().tolist():
            wrong[tolerance, *path] = float(error[*path])
        nodes.append(found.nodes)
    assert not wrong
    for loose, tight in itertools.pairwise(nodes):
        assert (tight >= loose).all()
    assert (nodes[-1] > nodes[0]).any(), "a tighter tolerance cost nothing: it is not looked at"


@families
def test_completeness_of_many_nodes(family: str) -> None:
    """Scores of a layer sum to what the layer's vector changes in the objective."""
    model = cases.tiny(family)
    loop = Naive(model.hf)
    kn = pyengine.KnowledgeNeurons(model)
    few, many = (
        kn.attribute(cases.prompts(model), cases.TARGETS, "midpoint", steps) for steps in (4, 128)
    )
    for index, items in enumerate(cases.items(model)):
        change = torch.zeros(model.n_layers, dtype=torch.float64)
        for cloze in items:
            for layer in range(model.n_layers):
                _, end = loop.path(cloze, layer, "zero")
                with torch.no_grad():
                    logits = [loop.logits(cloze, layer, z) for z in (end, torch.zeros_like(end))]
                as_it_is, without = (each.softmax(-1)[cloze.target] for each in logits)
                change[layer] += (as_it_is - without) / len(items)
        scale = change.abs().max()
        assert ((many.change[index] - change).abs() <= TOLERANCE * scale).all()
        assert (many.completeness[index].abs() <= 0.01 * scale).all()
        sums = many.scores[index].sum(1) - many.change[index]
        torch.testing.assert_close(many.completeness[index], sums, rtol=0, atol=1e-12)
    assert many.completeness.abs().max() < few.completeness.abs().max()


@families
def test_float32_is_near_float64(family: str) -> None:
    wide, single = cases.tiny(family), cases.tiny(family, torch.float32)
    for method in ("package", "adaptive"):
        exact, found = (
            pyengine.KnowledgeNeurons(model).attribute(
                cases.prompts(model), cases.TARGETS, method, steps=4
            )
            for model in (wide, single)
        )
        scale = exact.scores.abs().amax((1, 2), keepdim=True)
        assert ((found.scores - exact.scores).abs() <= 2e-3 * scale).all(), method


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_half_precision_does_not_lose_small_probabilities(family: str) -> None:
    """Gradients of a probability of 1e-6 underflow in float16; scores must not be zeros."""
    exact = cases.tiny(family, torch.float32)
    half = cases.tiny(family, torch.float16)
    scores = []
    for model in (exact, half):
        kn = pyengine.KnowledgeNeurons(model)
        scores.append(kn.attribute(cases.prompts(model), cases.TARGETS, "midpoint", 4).scores)
    assert scores[1].dtype == torch.float32
    scale = scores[0].abs().amax((1, 2), keepdim=True)
    assert ((scores[0] - scores[1]).abs() <= 0.1 * scale).all()

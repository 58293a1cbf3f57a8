"""The hard cases of attribution: the unit, targets of several tokens, where sets are cut."""

from typing import Any

import attribution_cases as cases
import pytest
import torch
from attribution_brute_force import Naive, stay_in_float64
from small_tokenizers import byte_tokenizer
from tiny_models import FAMILIES, tiny_model
from torch import Tensor

import pyengine
from pyengine.analyses.attribution import Attribution
from pyengine.cloze import Cloze
from pyengine.neurons import coarse_neurons, shared_neurons

families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_in_float64(monkeypatch)


def attribute(model: pyengine.Model, **settings: Any) -> Attribution:
    kn = pyengine.KnowledgeNeurons(model)
    return kn.attribute(cases.prompts(model), cases.TARGETS, **{"steps": 3, **settings})


def test_edge_case_1_gpt_hook_is_pre_activation() -> None:
    """The package interpolates u, not gelu(u): other scores, the same change of each layer."""
    for family in ("gpt2", "gpt_neo"):
        model = cases.tiny(family)
        post, pre = (attribute(model, method="package", value=v, steps=20) for v in ("post", "pre"))
        scale = post.scores.abs().amax((1, 2))
        assert ((post.scores - pre.scores).abs().amax((1, 2)) > 0.01 * scale).all()
        torch.testing.assert_close(post.change, pre.change, rtol=1e-9, atol=1e-15)


def test_edge_case_1_the_unit_of_a_gated_ffn_is_its_gate() -> None:
    """Before the non-linearity a gated neuron is act(z) · up with up as it is."""
    model = cases.tiny("t5_gated")
    loop = Naive(model.hf, "pre", cases.AROUND)
    found = attribute(model, method="right", value="pre", steps=4)
    for index, items in enumerate(cases.items(model)):
        expected = loop.attribute(items, "right", 4).scores
        assert (found.scores[index] - expected).abs().max() <= 1e-9 * expected.abs().max()


@families
def test_edge_case_3_multi_token_targets(family: str) -> None:
    """Scores: the mean over the tokens, each given the target's earlier ones; their product."""
    model = cases.tiny(family)
    kn = pyengine.KnowledgeNeurons(model)
    prompt, target = cases.prompts(model)[1], cases.TARGETS[1]
    items = cases.items(model)[1]
    loop = Naive(model.hf, "post", cases.AROUND)
    expected = [loop.attribute([cloze], "midpoint", 4) for cloze in items]
    found = kn.attribute(prompt, target, "midpoint", 4)
    mean = torch.stack([part.scores for part in expected]).mean(0)
    assert (found.scores[0] - mean).abs().max() <= 1e-9 * mean.abs().max()
    product = expected[0].probability * expected[1].probability
    assert float(found.probability[0]) == pytest.approx(product, rel=1e-9)
    ids = [cloze.target for cloze in items]
    assert torch.equal(kn.attribute(prompt, ids, "midpoint", 4).scores, found.scores)


def test_edge_case_3_given_ids_are_not_tokenised_again() -> None:
    """`1 2` spelt as two tokens stays two tokens, whatever the text of both would become."""
    tokenizer = byte_tokenizer()
    model = pyengine.load((tiny_model("gpt2", vocab_size=260).double(), tokenizer))
    kn = pyengine.KnowledgeNeurons(model)
    # Half of a character of two bytes: no text has these ids.
    found = kn.attribute([[5, 6, 7]], [[200, 40]], "midpoint", 3)
    loop = Naive(model.hf)
    items = [Cloze((5, 6, 7), 2, 200), Cloze((5, 6, 7, 200), 3, 40)]
    expected = loop.attribute(items, "midpoint", 3).scores
    assert (found.scores[0] - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_edge_case_3_greedy_conditioning() -> None:
    """The package's way: append the text of the model's own answer, tokenise it all again."""
    tokenizer = byte_tokenizer()
    model = pyengine.load((tiny_model("gpt2", vocab_size=257).double(), tokenizer))
    kn = pyengine.KnowledgeNeurons(model)
    prompts, targets = ["one two", "the cat sat"], ["xyz", " on"]
    found = kn.attribute(prompts, targets, "package", 4, conditioning="greedy")
    loop = Naive(model.hf)
    differs = False
    for index, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        items = []
        for token in tokenizer.encode(target):
            ids = tokenizer.encode(prompt)
            items.append(Cloze(tuple(ids), len(ids) - 1, token))
            with torch.no_grad():
                answer = int(model.hf(torch.tensor([ids])).logits[0, -1].argmax())
            prompt += str(tokenizer.decode([answer]))
            differs |= answer != token
        expected = loop.attribute(items, "package", 4)
        error = (found.scores[index] - expected.scores).abs().max()
        assert error <= 1e-9 * expected.scores.abs().max()
        assert float(found.probability[index]) == pytest.approx(expected.probability, rel=1e-9)
    assert differs, "the model answered what was asked: teacher forcing would do the same"


@families
def test_edge_case_3_an_unknown_target_is_refused(family: str) -> None:
    model = cases.tiny(family)
    with pytest.raises(pyengine.PyengineError, match=r"'W5' is not in the vocabulary.*'w5'"):
        pyengine.KnowledgeNeurons(model).attribute(cases.prompts(model)[0], "W5")


def test_edge_case_5_selection_boundaries() -> None:
    """Above a limit, not at it; of each prompt's own scores; none where nothing is positive."""
    model = cases.tiny("bert")
    kn = pyengine.KnowledgeNeurons(model)
    prompts = cases.prompts(model)
    settings: dict[str, Any] = {"method": "midpoint", "steps": 3}
    scores = kn.attribute(prompts, cases.TARGETS, **settings).scores
    sets = kn.coarse(prompts, cases.TARGETS, adaptive=0.2, **settings)
    assert sets == [coarse_neurons(each, adaptive=0.2) for each in scores]
    for each, found in zip(scores, sets, strict=True):
        best = float(each.max())
        assert [*found] == [(i, j) for i, j in _above(each, 0.2 * best)]
        at = float(each.flatten().sort().values[-3])
        assert len(coarse_neurons(each, threshold=at)) == 2
        assert coarse_neurons(-each.abs(), adaptive=0.3) == []
    assert kn.coarse(prompts[0], cases.TARGETS[0], adaptive=0.2, **settings) == sets[0]
    default = kn.coarse(prompts, cases.TARGETS, **settings)
    assert default == [coarse_neurons(each, adaptive=0.3) for each in scores]
    middle = kn.coarse(prompts[0], cases.TARGETS[0], percentile=99, **settings)
    assert middle == coarse_neurons(scores[0], percentile=99)


def _above(scores: Tensor, limit: float) -> list[tuple[int, int]]:
    rows = enumerate(scores.tolist())
    return [(i, j) for i, row in rows for j, score in enumerate(row) if score > limit]


def test_edge_case_5_refined_sets() -> None:
    """In more than the share of the prompts, in order of first appearance; negatives leave."""
    model = cases.tiny("bert")
    kn = pyengine.KnowledgeNeurons(model)
    prompts = ["w1 [MASK] w3", "w1 [MASK] w3 w4", "w2 [MASK] w3 w4", "w1 w2 [MASK] w3"]
    settings: dict[str, Any] = {"method": "midpoint", "steps": 3}
    sets = kn.coarse(prompts, ["w9"] * 4, adaptive=0.2, **settings)
    found = kn.refine(prompts, "w9", share=0.5, adaptive=0.2, **settings)
    count = {n: sum(n in each for each in sets) for each in sets for n in each}
    assert found == [n for n, times in count.items() if times > 2]
    assert found == shared_neurons(sets, 0.5)
    assert 2 in count.values(), "no neuron is in exactly half of the prompts"
    assert len(found) > 1
    negative = kn.coarse("w9 [MASK]", "w9", adaptive=0.2, **settings)
    without = kn.refine(prompts, "w9", share=0.5, adaptive=0.2, negatives=["w9 [MASK]"], **settings)
    assert without == [n for n in found if n not in negative]
    assert without != found, "the negative example has none of the neurons"

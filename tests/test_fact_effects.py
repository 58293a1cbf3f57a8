"""What becomes of the answers: against Hugging Face's own model; and the aggregates."""

from collections import Counter
from typing import Any

import pytest
import torch
from fact_helpers import cheap as cheap
from fact_helpers import find, load
from tiny_models import FAMILIES

import pyengine
from pyengine.analyses.fact_relations import by_layer, by_relation
from pyengine.analyses.fact_tables import EFFECTS, FACTS, NEURONS, to_table
from pyengine.cloze import clozes
from pyengine.token_text import TokenText


def own_prompts(found: Any, fact: int) -> list[str]:
    rows = found.effects.to_pylist()
    return [row["text"] for row in rows if (row["fact"], row["kind"]) == (fact, "own")]


def changed_probabilities(
    model: pyengine.Model, prompt: str, target: str, neurons: list[Any], factor: float
) -> tuple[float, int, list[int]]:
    """Run Hugging Face's own model, token by token, with hooks on the down-projections."""
    product, worst, best = 1.0, 0, []
    for cloze in clozes(model, prompt, target):
        handles = []
        for number, layer in enumerate(model.layers):
            dims = [dim for at, dim in neurons if at == number]
            is_first = layer.stack.name == model.family.stacks[0].name
            place = cloze.position if is_first else len(cloze.decoder_ids) - 1

            def scale(_m: Any, args: Any, place: int = place, dims: list[int] = dims) -> Any:
                coefficients = args[0].clone()
                coefficients[0, place, dims] *= factor
                return (coefficients, *args[1:])

            module = layer.module(model.body, layer.stack.value)
            handles.append(module.register_forward_pre_hook(scale))
        inputs = {"input_ids": torch.tensor([cloze.input_ids])}
        place = cloze.position
        if cloze.decoder_ids:
            inputs["decoder_input_ids"] = torch.tensor([cloze.decoder_ids])
            place = len(cloze.decoder_ids) - 1
        with torch.no_grad():
            p = model.hf(**inputs).logits[0, place].softmax(0)
        for handle in handles:
            handle.remove()
        product *= float(p[cloze.target])
        worst = max(worst, int((p > p[cloze.target]).sum()))
        best.append(int(p.argmax()))
    return product, worst, best


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_equal_hugging_faces_own_model_with_hooks(cheap: None, family: str) -> None:
    found, model = find(family=family, factor=3.0), load(family)
    facts = {row["fact"]: row for row in found.facts.to_pylist()}
    objects = {row["fact"]: row["object"] for row in facts.values()}
    seen: Counter[str] = Counter()
    text = TokenText.of(model.tokenizer)
    for row in found.effects.to_pylist():
        fact = facts[row["fact"]]
        neurons = found.by_uid()[fact["uid"]]
        asked = fact["fact"] if row["kind"] == "own" else fact["unrelated"]
        assert row["target"] == objects[asked]
        assert row["text"] == own_prompts(found, asked)[row["prompt"]]
        for state, factor in (("before", 1.0), ("suppressed", 0.0), ("enhanced", 3.0)):
            p, rank, best = changed_probabilities(
                model, row["text"], row["target"], neurons, factor
            )
            assert row[f"probability_{state}"] == pytest.approx(p, rel=1e-4)
            assert row[f"rank_{state}"] == rank
            assert row[f"correct_{state}"] == (rank == 0)
            assert row[f"completion_{state}"] == text.decode(best)
        seen[row["kind"]] += 1
        seen["changed"] += row["probability_suppressed"] != row["probability_before"]
        seen["several"] += " " in row["target"]
    assert min(seen["own"], seen["unrelated"], seen["changed"], seen["several"]) > 5


def test_without_neurons_nothing_changes(cheap: None) -> None:
    found = find(threshold=1e9)
    assert found.neurons.num_rows == 0
    assert found.effects.num_rows > 20
    for what in ("probability", "rank", "correct", "completion"):
        before = found.effects[f"{what}_before"]
        assert found.effects[f"{what}_suppressed"] == before
        assert found.effects[f"{what}_enhanced"] == before
    assert found.layers["share"].null_count == 3
    assert found.relations["own_suppress_mean_of_ratios"].null_count == 4
    assert found.relations["own_suppress_ratio_of_means"].to_pylist() == [0.0] * 4


def test_every_prompt_is_answered_once_before(cheap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyengine.analyses import fact_pass

    asked: list[Any] = []
    real = fact_pass.answers

    def count(model: Any, items: Any, forward: Any) -> Any:
        asked.extend(items)
        return real(model, items, forward)

    monkeypatch.setattr(fact_pass, "answers", count)
    find(family="bert", block_facts=100)
    assert len(asked) == len(set(asked)) > 40


def fact_row(number: int, relation: str, n_neurons: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(FACTS.names)
    row |= {"fact": number, "uid": f"u{number}", "relation": relation}
    return row | {"n_prompts": 2, "n_neurons": n_neurons}


def effect_row(fact: int, kind: str, *probabilities: float) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(EFFECTS.names)
    row |= {"fact": fact, "kind": kind}
    for state, p in zip(("before", "suppressed", "enhanced"), probabilities, strict=True):
        row |= {f"probability_{state}": p, f"correct_{state}": p > 0.5}
    return row


def test_relations_in_both_published_ways() -> None:
    facts = [fact_row(2, "a", 3), fact_row(5, "a", 0), fact_row(7, "all", 1)]
    effects = [
        effect_row(2, "own", 0.8, 0.2, 0.9),
        effect_row(2, "own", 0.4, 0.3, 0.6),
        effect_row(2, "unrelated", 0.5, 0.5, 0.6),
        effect_row(5, "own", 0.6, 0.6, 0.6),
        effect_row(7, "own", 0.0, 0.1, 0.2),
        effect_row(7, "own", 0.2, 0.1, 0.1),
    ]
    a, other, whole = by_relation(to_table(facts, FACTS), to_table(effects, EFFECTS)).to_pylist()
    assert (a["relation"], a["n_facts"], a["n_prompts"], a["n_neurons"]) == ("a", 2, 4, 1.5)
    assert a["own_suppress_ratio_of_means"] == pytest.approx(-0.7 / 1.8)
    assert a["own_enhance_ratio_of_means"] == pytest.approx(0.3 / 1.8)
    # The fact without neurons does not count here.
    assert a["own_suppress_mean_of_ratios"] == pytest.approx((-0.75 - 0.25) / 2)
    assert a["own_enhance_mean_of_ratios"] == pytest.approx((0.125 + 0.5) / 2)
    assert a["unrelated_suppress_ratio_of_means"] == 0
    assert a["unrelated_enhance_mean_of_ratios"] == pytest.approx(0.2)
    assert a["own_correct_before"] == pytest.approx(2 / 3)
    assert a["own_correct_suppressed"] == pytest.approx(1 / 3)
    # A relation may be called like the last row; p = 0 before gives no ratio.
    assert other["own_suppress_ratio_of_means"] == pytest.approx(0.0)
    assert other["own_suppress_mean_of_ratios"] == pytest.approx(-0.5)
    assert other["unrelated_suppress_mean_of_ratios"] is None
    assert (whole["relation"], whole["n_facts"], whole["n_prompts"]) == ("all", 3, 6)
    # First over the prompts of each fact, then over facts.
    assert whole["own_suppress_mean_of_ratios"] == pytest.approx((-0.5 - 0.5) / 2)
    assert whole["own_enhance_ratio_of_means"] == pytest.approx((0.3 + 0.1) / 2.0)


def test_layers_count_neurons_of_all_facts() -> None:
    rows = [{"fact": 0, "layer": layer, "dim": 1, "n_prompts": 1} for layer in (0, 2, 2, 2)]
    assert by_layer(to_table(rows, NEURONS), 4).to_pydict() == {
        "layer": [0, 1, 2, 3],
        "n_neurons": [1, 0, 3, 0],
        "share": [0.25, 0.0, 0.75, 0.0],
    }

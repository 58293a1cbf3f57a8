"""Fact runs: which facts are asked, which neurons are found; and real effects."""

from collections import Counter
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fact_helpers import cheap as cheap
from fact_helpers import facts as some_facts
from fact_helpers import fake_attribute, find, load, result_hashes
from prediction_helpers import FOLDERS

import pyengine
from pyengine import Fact, PyengineError
from pyengine.analyses.attribution_settings import AttributionSettings
from pyengine.analyses.fact_prompts import FactPrompts
from pyengine.analyses.knowledge_neurons import KnowledgeNeurons
from pyengine.cloze import clozes
from pyengine.embedded import FACTS as DEMO_FACTS
from pyengine.merge_runs import merge_runs
from pyengine.neurons import coarse_neurons, tuned_share

FAMILIES = ("gpt2", "bert", "t5")


def rows_of(table: pa.Table, **where: Any) -> list[dict[str, Any]]:
    rows = table.to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def coarse_sets(model: pyengine.Model, row: dict[str, Any], prompts: list[str]) -> list[Any]:
    items = [clozes(model, prompt, row["object"]) for prompt in prompts]
    found = fake_attribute(model, items, AttributionSettings())
    return [coarse_neurons(scores, adaptive=0.3) for scores in found.scores]


def own_prompts(found: Any, fact: int) -> list[str]:
    return [row["text"] for row in rows_of(found.effects, fact=fact, kind="own")]


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_are_those_shared_by_enough_prompts(cheap: None, family: str) -> None:
    found, model = find(family=family), load(family)
    assert found.facts.num_rows > 10
    shared = 0
    for row in found.facts.to_pylist():
        sets = coarse_sets(model, row, own_prompts(found, row["fact"]))
        counts = Counter(neuron for neurons in sets for neuron in neurons)
        wanted = [(*neuron, n) for neuron, n in counts.items() if n > 0.4 * len(sets)]
        mine = rows_of(found.neurons, fact=row["fact"])
        assert [(r["layer"], r["dim"], r["n_prompts"]) for r in mine] == wanted
        assert (row["n_neurons"], row["n_prompts"]) == (len(wanted), len(sets))
        assert row["n_coarse"] == pytest.approx(np.mean([len(neurons) for neurons in sets]))
        assert (row["converged"], row["share"]) == (True, 0.4)
        assert row["completeness"] == pytest.approx(0.02)
        assert found.by_uid()[row["uid"]] == [neuron[:2] for neuron in wanted]
        shared += max(counts.values(), default=0) > 1
    assert shared > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_that_cannot_be_asked_are_skipped_and_listed(cheap: None, family: str) -> None:
    found = find(family=family)
    skipped = {row["uid"]: row["reason"] for row in found.skipped.to_pylist()}
    assert "unknown' is not in the vocabulary" in skipped.pop("fact-3")
    causal = {"fact-5": "no prompt ends in the object"} if family == "gpt2" else {}
    assert skipped == causal
    uids = found.facts["uid"].to_pylist()
    assert sorted([*uids, "fact-3", *causal]) == sorted(fact.uid for fact in some_facts())
    texts = found.effects["text"].to_pylist()
    assert all(text.endswith("[MASK] .") for text in texts) == (family == "gpt2")
    assert found.record == {
        "n_facts": len(uids),
        "n_skipped": 1 + len(causal),
        "n_prompts": sum(found.facts["n_prompts"].to_pylist()),
        "exact": True,
    }


def test_facts_none_of_which_can_be_asked_are_refused() -> None:
    fact = Fact("a", "r", "", "unknown", ("w1 [MASK]",))
    with pytest.raises(PyengineError, match="none of the 1 facts: 'a': the target ' unknown' is"):
        find(facts=[fact])
    with pytest.raises(PyengineError, match="two facts are called"):
        find(facts=[fact, fact])


def test_the_unrelated_fact_is_of_another_relation_and_drawn_evenly() -> None:
    facts = [Fact(str(i), f"r{i % 3}", "", "w1", ("w2 [MASK]",)) for i in range(9)]
    facts[1] = Fact("1", "r1", "", "unknown", ("w2 [MASK]",))
    asked = FactPrompts.of(load(), facts)
    relation = [fact.relation for fact in asked.facts]
    assert relation == sorted(relation)
    out = asked.reasons.index(next(filter(None, asked.reasons)))
    drawn = np.array([asked.unrelated(seed) for seed in range(3000)])
    assert (drawn[:, out] == -1).all()
    for number in set(range(9)) - {out}:
        counts = np.bincount(drawn[:, number], minlength=9)
        others = [i for i in range(9) if relation[i] != relation[number] and i != out]
        assert counts.nonzero()[0].tolist() == others
        assert counts[others] == pytest.approx(3000 / len(others), rel=0.15)


def test_one_relation_alone_has_no_unrelated_facts(cheap: None) -> None:
    facts = [fact for fact in some_facts() if fact.relation == "r0"]
    found = find(facts=facts)
    assert found.facts["unrelated"].null_count == found.facts.num_rows == 4
    assert set(found.effects["kind"].to_pylist()) == {"own"}
    assert found.relations["unrelated_suppress_ratio_of_means"].null_count == 2


def test_relations_may_be_mixed_in_the_input(cheap: None) -> None:
    groups = [[f for f in some_facts() if f.relation == f"r{i}"] for i in range(3)]
    mixed = [fact for facts in zip_longest(*groups) for fact in facts if fact is not None]
    assert mixed != some_facts()
    found, wanted = find(facts=mixed), find()
    for name in ("facts", "neurons", "effects", "skipped"):
        assert getattr(found, name).equals(getattr(wanted, name))
    assert found.manifest["corpus"] == wanted.manifest["corpus"]


def test_a_tuned_share_looks_at_the_whole_relation(cheap: None) -> None:
    found, model = find(share="auto", block_facts=None, family="bert"), load("bert")
    for relation in ("r0", "r1", "r2"):
        rows = rows_of(found.facts, relation=relation)
        sets = [coarse_sets(model, row, own_prompts(found, row["fact"])) for row in rows]
        share, wanted = tuned_share(sets)
        assert {row["share"] for row in rows} == {share}
        assert [found.by_uid()[row["uid"]] for row in rows] == wanted


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "simpson"}, "unknown method 'simpson'"),
        ({"objective": "loss"}, "unknown objective"),
        ({"value": "key"}, "unknown value"),
        ({"steps": 0}, "steps must be a whole number from 1 on"),
        ({"adaptive": 2.0}, "adaptive is a share"),
        ({"adaptive": 0.2, "threshold": 0.1}, "exactly one of threshold, adaptive"),
        ({"share": 1.0}, "share must be from 0 to below 1, or 'auto', got 1.0"),
        ({"share": "all"}, "share must be from 0 to below 1, or 'auto', got 'all'"),
        ({"share": "auto"}, "share='auto' looks at whole relations"),
        ({"factor": float("nan")}, "factor must be a number"),
        ({"seed": -1}, "seed must be from 0"),
        ({"block_facts": 0}, "block_facts must be"),
        ({"shard": (2, 2)}, "shard 2 of 2 does not exist"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Any, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(PyengineError, match=named) as caught:
        find(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_trained_models_lose_and_gain_their_facts_with_their_neurons(name: str) -> None:
    """The models are sure of these facts; asked with half a name they can also gain."""
    model, facts = pyengine.load(FOLDERS[name]), pyengine.read_facts(DEMO_FACTS)[::10]
    halves = [replace(fact, prompts=half_named(fact)) for fact in facts]
    *_, whole = pyengine.fact_neurons(model, facts).relations.to_pylist()
    *_, half = pyengine.fact_neurons(model, halves).relations.to_pylist()
    assert (whole["n_facts"], whole["n_prompts"], whole["own_correct_before"]) == (15, 75, 1)
    for found in (whole, half):
        assert 2 < found["n_neurons"] < 30
        for aggregate in ("ratio_of_means", "mean_of_ratios"):
            own = found[f"own_suppress_{aggregate}"]
            assert own < -0.005
            assert own < 2 * found[f"unrelated_suppress_{aggregate}"]
    assert half["own_suppress_ratio_of_means"] < -0.3
    assert half["own_enhance_ratio_of_means"] > 0.2
    assert half["own_correct_suppressed"] < half["own_correct_before"] < 1
    assert half["own_correct_before"] < half["own_correct_enhanced"]
    for mode in ("suppress", "enhance"):
        assert abs(half[f"unrelated_{mode}_ratio_of_means"]) < 0.2


def half_named(fact: Fact) -> tuple[str, ...]:
    surname = fact.subject.split()[1]
    return tuple(prompt.replace(fact.subject, surname) for prompt in fact.prompts)


def test_a_real_run_is_the_same_in_any_number_of_shards(tmp_path: Path) -> None:
    find(tmp_path / "whole", "bert")
    for index in range(3):
        find(tmp_path / "run", "bert", shard=(index, 3))
    merge_runs([tmp_path / "run"], tmp_path / "run")
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


def test_neurons_are_those_that_knowledge_neurons_finds() -> None:
    kn, facts = KnowledgeNeurons(load("bert")), some_facts(6)
    found = find(facts=facts, family="bert", block_facts=9, method="left", steps=4).by_uid()
    for fact in facts:
        if fact.uid in found:
            refined = kn.refine(fact.prompts, fact.object, share=0.4, method="left", steps=4)
            assert found[fact.uid] == refined
    assert len(found) == 5

"""Neurons ranked by a probe: what is read, how weights become ranks, what the ranking is worth."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import synthetic_neurons
import torch
from command_line import Run, assert_one_line
from heads_helpers import bank_of, random_sentence, sentences_of, split_task

from pyengine import PyengineError
from pyengine.analyses.fact_neuron_result import FactNeurons
from pyengine.heads.bank import HeadBank
from pyengine.heads.bank_tasks import indexed
from pyengine.heads.neuron_features import Part, parts_of, read_features
from pyengine.heads.neuron_ranking import (
    Penalties,
    ablate,
    entry_shares,
    minimal_set,
    overlap,
    predict,
    ranked,
)
from pyengine.heads.ranked_neurons import rank_neurons
from pyengine.heads.task import CLASSES, INNER_K_FOLD, K_FOLD, SCORES, SPLIT, Examples, Task


def test_shares_at_which_neurons_enter() -> None:
    weights = np.array([[4.0, 0.0], [-3.0, 1.0], [2.0, 0.0], [1.0, -9.0], [0.0, 0.0]])
    # Class 0: 4, 3, 2, 1 of 10; class 1: 9, 1 of 10.
    np.testing.assert_allclose(entry_shares(weights), [0, 0.4, 0.7, 0, 1])
    assert ranked(weights).tolist() == [3, 0, 1, 2, 4]  # 9 of 10 before 4 of 10
    assert entry_shares(np.zeros((3, 2))).tolist() == [1, 1, 1]
    assert ranked(np.ones((3, 2))).tolist() == [0, 1, 2]


def test_ablation_keeps_a_fifth() -> None:
    x = torch.tensor([[1.0, 0, 0, 0, 0, 1], [-1, 0, 0, 0, 0, 1], [1, 0, 0, 0, -9, 1]])
    part = Part(x, torch.tensor([0, 1, 0]))
    weights = torch.zeros(6, 2)
    weights[0, 0], weights[4, 0], weights[-1, 1] = 2.0, 0.5, 0.1
    assert predict(x, weights).tolist() == [0, 1, 1]
    found = ablate(part, weights, np.array([0, 4, 1, 2, 3]))
    assert found["top"] == 100 and found["bottom"] == 33.33
    assert 33.33 <= found["random"] <= 100
    assert found == ablate(part, weights, np.array([0, 4, 1, 2, 3]))


def test_minimal_set_is_what_tells_the_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name in ("train", "dev", "test"):
        x = torch.randn(200, 41, generator=generator)
        x[:, -1] = 1
        parts[name] = Part(x, (x[:, 7] + x[:, 9] > 0).long())
    order = np.array([7, 9, *(i for i in range(40) if i not in (7, 9))])
    found = minimal_set(parts, order, 2, Penalties(1e-3, 1e-3), oracle=98.0)
    assert found["n"] == 2 and found["dev"] >= 97.02 and found["test"] > 95
    assert minimal_set(parts, order[:5], 2, Penalties(1e-3, 1e-3), oracle=200.0)["n"] == 5


@pytest.mark.parametrize("sizes", [(30, 5, 7), (30, 30, 4), (12, 8, 9), (3072, 100, 60)])
def test_overlap_by_chance(sizes: tuple[int, int, int]) -> None:
    whole, first, second = sizes
    ways = [
        math.comb(second, k) * math.comb(whole - second, first - k)
        for k in range(min(first, second) + 1)
    ]
    for common in range(max(0, first + second - whole), min(first, second) + 1):
        found = overlap(whole, first, second, common)
        assert found["probability"] == pytest.approx(
            sum(ways[common:]) / math.comb(whole, first), rel=1e-8
        )
        assert found["expected"] == pytest.approx(
            sum(k * way for k, way in enumerate(ways)) / math.comb(whole, first)
        )


def planted(**more: Any) -> HeadBank:
    """A bank of two layers of 30 neurons: neuron 11 of layer 2 tells the classes of `A`."""
    task = split_task("A", (120, 40, 40))
    rng = np.random.default_rng(1)
    texts, index = indexed([task])
    arrays = {("neurons", layer): rng.normal(3, 2, (len(texts), 1, 30)) for layer in (1, 2)}
    for part in index["A"].parts.values():
        arrays["neurons", 2][part.rows[:, 0], 0, 11] += 6 * part.targets
    arrays["neurons", 1][:, 0, 4] = 2.5
    assert sentences_of([task]) == texts
    return bank_of(arrays, [task], **more)


def unpaired(protocol: str, n: int = 25) -> Task:
    rng = np.random.default_rng(0)
    texts = tuple(f"{random_sentence(rng)} x{i}" for i in range(n))
    whole = Examples(texts, None, np.arange(n) % 2)
    parts = {K_FOLD: {"train": whole, "test": whole}, INNER_K_FOLD: {"all": whole}}[protocol]
    return Task("T", CLASSES, protocol, ("a", "b"), parts)


def test_tasks_without_dev_hold_out_every_tenth() -> None:
    (task,) = indexed([unpaired(K_FOLD)])[1].values()
    found = parts_of(task)
    rows = {name: part.rows[:, 0].tolist() for name, part in found.items()}
    every = task.parts["train"].rows[:, 0].tolist()
    assert rows["dev"] == every[::10] and len(rows["train"]) == 22
    assert sorted(rows["dev"] + rows["train"]) == sorted(every) and rows["test"] == every
    (task,) = indexed([unpaired(INNER_K_FOLD)])[1].values()
    rows = {name: part.rows[:, 0].tolist() for name, part in parts_of(task).items()}
    every = task.parts["all"].rows[:, 0].tolist()
    assert rows["dev"] == every[::10] and rows["test"] == every[1::10]
    assert sorted(i for part in rows.values() for i in part) == sorted(every)
    thinned = parts_of(task, max_examples=4)
    assert [len(part) for part in thinned.values()] == [4, 3, 3]


def test_pairs_and_scores_are_refused() -> None:
    texts = ("a", "b")
    pairs = Examples(texts, texts, np.array([0, 1]))
    scores = Examples(texts, None, np.array([0.5, 1]))
    for kind, examples in ((CLASSES, pairs), (SCORES, scores)):
        parts = dict.fromkeys(("train", "dev", "test"), examples)
        (task,) = indexed([Task("T", kind, SPLIT, ("a", "b"), parts)])[1].values()
        with pytest.raises(PyengineError, match="classes of single sentences"):
            parts_of(task)


def test_features_are_standardised_on_train() -> None:
    bank = planted()
    found = read_features(bank, "A")
    assert found.layers.tolist() == [1] * 30 + [2] * 30
    assert found.neurons.tolist() == [*range(30)] * 2
    train = found.parts["train"].x
    assert train.shape == (120, 61) and (train[:, -1] == 1).all()
    varies = [i for i in range(60) if i != 4]
    np.testing.assert_allclose(train[:, varies].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train[:, varies].std(0, correction=0), 1, atol=1e-5)
    assert all((part.x[:, 4] == 0).all() for part in found.parts.values())
    raw = bank.vectors("neurons", 2)[:, 0]
    rows = {name: part.rows[:, 0] for name, part in bank.task("A").parts.items()}
    kept = raw[rows["train"]]
    expected = (raw[rows["test"]] - kept.mean(0)) / kept.std(0)
    np.testing.assert_allclose(found.parts["test"].x[:, 30:60], expected, atol=1e-4)
    assert read_features(bank, "A", [2]).layers.tolist() == [2] * 30


def test_the_planted_neuron_ranks_first(tmp_path: Path) -> None:
    found = rank_neurons(planted(), "A")
    first = found.table.slice(0, 1).to_pylist()[0]
    assert (first["rank"], first["layer"], first["neuron"], first["share"]) == (1, 2, 11, 0)
    assert first["weights"][0] < 0 < first["weights"][1]
    summary = found.summary
    assert summary["test"] > 85 and summary["minimal_set"]["n"] == 1
    assert summary["ablation"]["top"] > summary["ablation"]["bottom"] + 20
    assert summary["majority"] == 50 and summary["converged"]
    assert found.table.num_rows == 60 and found.table["share"].to_pylist()[-1] == 1
    found.save(tmp_path / "a.parquet")
    rank_neurons(planted(), "A").save(tmp_path / "b.parquet")
    for ending in ("parquet", "json"):
        first_bytes, second = ((tmp_path / f"{n}.{ending}").read_bytes() for n in "ab")
        assert first_bytes == second
    assert pq.read_table(tmp_path / "a.parquet").equals(found.table)


def facts_of(sha256: str) -> FactNeurons:
    found = synthetic_neurons.found()
    model = found.manifest["model"] | {"sha256": sha256}
    return replace(found, manifest=found.manifest | {"model": model})


def test_overlap_with_neurons_of_facts() -> None:
    # All of the facts' neurons have dim 0, in layers up to 3.
    facts = facts_of("arrays")
    ranking = rank_neurons(planted(), "A")
    (row,) = ranking.overlap(facts, [60])
    assert row["n_facts"] == 2 and row["n_top"] == ranking.summary["n_with_weight"]
    one, whole = ranking.overlap(facts, [1, 10])
    assert one["n_common"] == 0 and one["probability"] == pytest.approx(1)
    assert one["expected"] == pytest.approx(2 / 60) and whole["n_top"] == 10
    with pytest.raises(PyengineError, match="another model"):
        ranking.overlap(facts_of("else"), [1])


def test_penalties_are_checked() -> None:
    for penalties in ((), (-1e-3,)):
        with pytest.raises(PyengineError, match="penalties"):
            rank_neurons(planted(), "A", l1=penalties)


def test_command(run: Run, tmp_path: Path) -> None:
    planted(folder=tmp_path / "bank")
    arguments = ("heads", "neurons", tmp_path / "bank", "--task", "A", "--out")
    done = run(*arguments, tmp_path / "n.parquet", "--layers", "2", "--l1", "0.01", "--l2", "0.01")
    assert done.code == 0, done.err
    assert "the top 20 % alone" in done.out and "11" in done.out
    summary = json.loads((tmp_path / "n.json").read_text())
    assert summary["layers"] == [2] and summary["penalties"] == {"l1": 0.01, "l2": 0.01}
    done = run(*arguments, tmp_path / "n.parquet", "--l1", "0.01", "--l2", "0.01", "--json")
    assert json.loads(done.out)["n_neurons"] == 60
    assert_one_line(run(*arguments, tmp_path / "n.parquet", "--layers", "7"), 1, "no layer 7")
    assert run(*arguments, tmp_path / "n.csv").code == 2
    assert run(*arguments, tmp_path / "n.parquet", "--l1", "much").code == 2

"""Probes over a bank: every kind of task, resumed, sharded, by many; always the same table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from heads_helpers import bank_of, sentences_of, split_task
from heads_runs_helpers import (
    N_HEADS,
    N_LAYERS,
    QUICK,
    D,
    bank_for,
    pairs_task,
    table_bytes,
    two_tasks,
)

from pyengine.errors import PyengineError
from pyengine.heads import probe_heads as module
from pyengine.heads import trials
from pyengine.heads.bank import HeadBank
from pyengine.heads.correlations import pearson, spearman
from pyengine.heads.probe.features import cosine_scores
from pyengine.heads.probe.protocols import probe_classes
from pyengine.heads.probe_heads import probe_heads
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.heads.results import HeadResults
from pyengine.heads.task import (
    CLASSES,
    INNER_K_FOLD,
    K_FOLD,
    SCORES,
    SIMILARITY,
    SPLIT,
    UNSUPERVISED,
    Task,
)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> HeadBank:
    return bank_for(two_tasks(), tmp_path_factory.mktemp("of") / "bank")


def test_every_row_is_the_probe_of_its_head_alone(bank: HeadBank, tmp_path: Path) -> None:
    found = probe_heads(bank, ["three"], out=tmp_path, settings=QUICK, seeds=(7,))
    task = bank.task("three")
    parts = {name: (part.rows, part.targets) for name, part in task.parts.items()}
    settings = ProbeSettings(**{**vars(QUICK), "seed": 7})
    for row in found.table.to_pylist():
        x = bank.vectors(row["location"], row["layer"])
        head = max(row["head"], 0)
        alone = probe_classes(x[:, head : head + 1], parts, 3, SPLIT, settings)
        assert (row["dev"], row["test"]) == (alone.dev[0], alone.test[0])
        assert (row["regulariser"], row["epochs"]) == (alone.regulariser[0], alone.epochs[0])
        assert row["width"] == x.shape[2]
        assert (row["n_train"], row["n_dev"], row["n_test"], row["n_classes"]) == (40, 20, 20, 3)
        assert (row["bank"], row["model"], row["seed"]) == (bank.fingerprint, "arrays", 7)
    assert found.table.num_rows == N_LAYERS * (N_HEADS + 1)
    heads = found.table.filter(pa.compute.equal(found.table["location"], "block"))["head"]
    assert set(heads.to_pylist()) == {-1}


def test_what_is_there_is_not_done_again(
    bank: HeadBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe_heads(bank, out=tmp_path, settings=QUICK)
    before = table_bytes(tmp_path)
    monkeypatch.setattr(module, "run_job", None)
    told = list[tuple[int, int]]()
    probe_heads(bank, out=tmp_path, settings=QUICK, on_progress=lambda *at: told.append(at))
    assert table_bytes(tmp_path) == before
    assert set(told) == {(2 * N_LAYERS * (N_HEADS + 1),) * 2}


def test_an_interruption_keeps_what_was_done(
    bank: HeadBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trials.GROUP_PARTS, "cpu", N_HEADS)
    probe_heads(bank, out=tmp_path / "whole", settings=QUICK)
    run_job, done = module.run_job, list[Any]()

    def until_stopped(*given: Any) -> pa.Table:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(given[1])
        return run_job(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_job", until_stopped)
        with pytest.raises(KeyboardInterrupt):
            probe_heads(bank, out=tmp_path / "cut", settings=QUICK)
    kept = HeadResults.open(tmp_path / "cut").table.num_rows
    assert kept == sum(job.n_parts for job in done)
    again = list[Any]()

    def noted(*given: Any) -> pa.Table:
        again.append(given[1])
        return run_job(*given)

    monkeypatch.setattr(module, "run_job", noted)
    probe_heads(bank, out=tmp_path / "cut", settings=QUICK)
    assert not set(done) & set(again)
    assert table_bytes(tmp_path / "cut") == table_bytes(tmp_path / "whole")


@pytest.mark.parametrize("probe", ["logistic", "ridge", "lda", "mlp"])
def test_shards_in_any_order_make_the_whole_table(
    probe: str, bank: HeadBank, tmp_path: Path
) -> None:
    settings = ProbeSettings(**{**vars(QUICK), "hidden": 3}) if probe == "mlp" else QUICK
    how: dict[str, Any] = {"probe": probe, "settings": settings, "whole": True}
    probe_heads(bank, out=tmp_path / "whole", **how)
    for i in (2, 0, 1):
        probe_heads(bank, out=tmp_path / "shards", shard=(i, 3), **how)
    assert table_bytes(tmp_path / "whole") == table_bytes(tmp_path / "shards")
    assert HeadResults.open(tmp_path / "whole").table.num_rows == 2 * N_LAYERS * (N_HEADS + 2)


def test_a_shard_without_trials_is_done(bank: HeadBank, tmp_path: Path) -> None:
    found = probe_heads(bank, ["two"], out=tmp_path, locations=["block"], shard=(5, 6))
    assert not found.table.num_rows


def test_seeds_and_probes_stand_beside_each_other(bank: HeadBank, tmp_path: Path) -> None:
    for how in ({"seeds": (1, 2, 1)}, {"probe": "ridge"}, {"settings": QUICK, "seeds": (2,)}):
        given: dict[str, Any] = {"settings": QUICK, **how}
        probe_heads(bank, ["two"], out=tmp_path, locations=["head"], **given)
    found = HeadResults.open(tmp_path)
    assert found.table.num_rows == 3 * N_LAYERS * N_HEADS
    assert set(found.where(probe="logistic").table["seed"].to_pylist()) == {1, 2}


def test_layers_and_locations_are_chosen(bank: HeadBank, tmp_path: Path) -> None:
    found = probe_heads(bank, ["two"], out=tmp_path, layers=[1], whole=True, probe="ridge")
    places = [tuple(row[name] for name in ("location", "layer", "head", "width"))
              for row in found.table.to_pylist()]  # fmt: skip
    heads = [("head", 1, head, D) for head in range(N_HEADS)]
    assert places == [("block", 1, -1, 6), ("head", 1, -1, N_HEADS * D), *heads]


def test_a_control_score_is_added_later(bank: HeadBank, tmp_path: Path) -> None:
    how: dict[str, Any] = {"out": tmp_path, "settings": QUICK, "locations": ["head"]}
    plain = probe_heads(bank, ["two"], **how).table
    assert np.isnan(plain["control"].to_numpy()).all()
    found = probe_heads(bank, ["two"], control=True, **how).table
    assert np.isfinite(found["selectivity"].to_numpy()).all()
    names = [name for name in plain.column_names if name not in ("control", "selectivity")]
    assert found.select(names).equals(plain.select(names))
    again = probe_heads(bank, ["two"], **how).table
    assert again.equals(found)


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_folds(probe: str, tmp_path: Path) -> None:
    words = split_task("x", (50, 1, 20), 2)
    k_fold = Task("folds", CLASSES, K_FOLD, words.labels,
                  {"train": words.parts["train"], "test": words.parts["test"]})  # fmt: skip
    nested = Task("nested", CLASSES, INNER_K_FOLD, words.labels, {"all": words.parts["train"]})
    found = probe_heads(bank_for([k_fold, nested]), out=tmp_path, settings=QUICK, probe=probe)
    for name, sizes in (("folds", (50, 0, 20)), ("nested", (50, 0, 50))):
        rows = found.where(task=name).table
        columns = ("n_train", "n_dev", "n_test")
        assert {tuple(row[c] for c in columns) for row in rows.to_pylist()} == {sizes}
        assert np.isfinite(rows["dev"].to_numpy()).all()


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_scores_have_both_correlations(probe: str, tmp_path: Path) -> None:
    task = pairs_task("related", SCORES, SPLIT, {"train": 24, "dev": 12, "test": 12})
    found = probe_heads(bank_for([task]), out=tmp_path, locations=["block"], probe=probe)
    for row in found.table.to_pylist():
        assert np.isnan(row["dev"]) == (row["metric"] == "spearman")
        assert -1 <= row["test"] <= 1 and np.isnan([row["majority"], row["chance"]]).all()
    assert sorted(set(found.table["metric"].to_pylist())) == ["pearson", "spearman"]
    assert found.scores("related", "block").shape == (N_LAYERS, 1)


def test_similarity_needs_no_probe(tmp_path: Path) -> None:
    task = pairs_task("STS12", SIMILARITY, UNSUPERVISED, {"news": 10, "forum": 30})
    bank = bank_for([task])
    found = probe_heads(bank, out=tmp_path, locations=["head"], seeds=(1, 2), probe="lda")
    assert found.table.num_rows == 4 * N_LAYERS * N_HEADS
    x = bank.vectors("head", 1)
    parts = bank.task("STS12").parts
    of: dict[str, Callable[..., np.ndarray]] = {"pearson": pearson, "spearman": spearman}
    for name, correlation in of.items():
        one, other = (correlation(cosine_scores(x, p.rows), p.targets) for p in parts.values())
        for prefix, wanted in (("", (one + other) / 2), ("weighted_", (one + 3 * other) / 4)):
            rows = found.where(metric=prefix + name, layer=1).table
            np.testing.assert_allclose(rows["test"].to_numpy(), wanted, rtol=1e-12)
    assert set(found.table["probe"].to_pylist()) == {"cosine"}
    assert set(found.table["seed"].to_pylist()) == {0}
    assert set(found.table["n_test"].to_pylist()) == {40}


def test_what_cannot_be_done_is_refused_before_the_work(bank: HeadBank, tmp_path: Path) -> None:
    related = pairs_task("related", SCORES, SPLIT, {"train": 6, "dev": 6, "test": 6})
    refused: list[tuple[dict[str, Any], str]] = [
        ({"tasks": ["TREC"]}, "no task 'TREC'; it has: three, two"),
        ({"locations": ["ffn"]}, "no location 'ffn'; it has: head, block"),
        ({"layers": [0, 9]}, "no layer 9; it has: 0, 1"),
        ({"probe": "svm"}, "unknown probe 'svm'"),
        ({"seeds": ()}, "at least one seed"),
        ({"shard": (2, 2)}, "shard 2 of 2 does not exist"),
        ({"probe": "mlp", "settings": QUICK}, "mlp has hidden >= 1, not 0"),
        ({"settings": ProbeSettings(hidden=3)}, "logistic has hidden 0, not 3"),
    ]
    for how, message in refused:
        with pytest.raises(PyengineError, match=message):
            probe_heads(bank, out=tmp_path / "x", **how)
    with pytest.raises(PyengineError, match="related has scores, not classes"):
        probe_heads(bank_for([related]), out=tmp_path / "x", probe="lda")
    with pytest.raises(PyengineError, match="is a run"):
        probe_heads(bank, out=bank.folder)
    assert not (tmp_path / "x").exists()


def test_vectors_that_are_not_finite_are_named(tmp_path: Path) -> None:
    task = split_task("two", (20, 10, 10))
    x = np.random.default_rng(0).normal(size=(len(sentences_of([task])), 2, 3))
    x[4, 1, 0] = np.inf
    bank = bank_of({("head", 5): x}, [task])
    for probe in ("logistic", "ridge"):
        with pytest.raises(PyengineError, match=r"head\.5\.1 "):
            probe_heads(bank, out=tmp_path, probe=probe)

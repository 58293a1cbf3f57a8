"""`pyengine heads probe | rank | show`."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_one_line
from heads_helpers import bank_of, sentences_of, split_task
from heads_results_helpers import head_rows, layer_rows, results_folder, table

from pyengine.heads import probe_heads as module
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import append

N_HEADS = 2


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank of one layer, whose second head knows the class, and its block."""
    task = split_task("toy", (40, 20, 20), 2)
    n, rng = len(sentences_of([task])), np.random.default_rng(0)
    x = rng.normal(size=(n, N_HEADS, 3))
    at = {text: i for i, text in enumerate(sentences_of([task]))}
    for part in task.parts.values():
        for text, target in zip(part.first, part.targets, strict=True):
            x[at[text], 1, 0] = 10 * target
    arrays = {("head", 0): x, ("block", 0): rng.normal(size=(n, 1, 6))}
    return bank_of(arrays, [task], tmp_path / "bank").folder


def test_probes_are_trained_and_shown(bank: Path, tmp_path: Path, run: Run) -> None:
    results = tmp_path / "results"
    outcome = run("heads", "probe", bank, "--out", results, "--probe", "ridge", "--control")
    assert outcome.code == 0, outcome.err
    head, block = outcome.out.splitlines()[1:3]
    assert head.split()[:5] == ["toy", "head", "0.1", "100.00", "100.00"]
    assert block.split()[:3] == ["toy", "block", "0"]
    assert "selectivity" in outcome.out and "majority" in outcome.out
    assert f"next: pyengine heads show {results}" in outcome.err
    again = run("heads", "probe", bank, "--out", results, "--probe", "ridge", "--control")
    assert again.out == outcome.out


def test_probes_tell_machines(bank: Path, tmp_path: Path, run: Run) -> None:
    options = ("--probe", "ridge", "--location", "head", "--whole", "--layers", "0", "--json")
    outcome = run("heads", "probe", bank, "--out", tmp_path / "r", *options, "--task", "toy")
    said = json.loads(outcome.out)
    first, second = said["bests"]
    assert said["results"] == str(tmp_path / "r")
    assert (first["layer"], first["head"], first["test"], first["n"]) == (0, 1, 100.0, 2)
    assert (second["whole"], second["head"], second["selectivity"]) == (True, None, None)
    assert first["majority"] == 50.0 == first["chance"]


@pytest.mark.parametrize(
    "options, settings",
    [
        ((), {"optimizer": "rmsprop", "batch_size": 256, "folds": 5, "hidden": 0}),
        (("--senteval",), {"optimizer": "adam", "batch_size": 64, "folds": 10, "tenacity": 5}),
        (("--probe", "mlp", "--hidden", 3, "--dropout", 0.1), {"hidden": 3, "dropout": 0.1}),
    ],
)
def test_settings_stand_in_the_results(
    options: tuple, settings: dict, bank: Path, tmp_path: Path, run: Run
) -> None:
    given = (*options, "--location", "block", "--seed", 4, "--seed", 5)
    outcome = run("heads", "probe", bank, "--out", tmp_path / "r", *given)
    assert outcome.code == 0, outcome.err
    found = HeadResults.open(tmp_path / "r").table
    assert settings.items() <= json.loads(found["settings"][0].as_py()).items()
    assert found["seed"].to_pylist() == [4, 5]


def test_an_interruption_says_how_to_go_on(
    bank: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_job", stop)
    outcome = run("heads", "probe", bank, "--out", tmp_path / "r")
    assert_one_line(outcome, 130, f"are in {tmp_path / 'r'}: run the same command again")


def test_wrong_use_is_told_in_one_line(bank: Path, tmp_path: Path, run: Run) -> None:
    out = ("--out", tmp_path / "r")
    assert_one_line(run("heads", "probe", bank, *out, "--task", "TREC"), 1, "it has: toy")
    assert_one_line(run("heads", "probe", bank, "--out", bank), 1, "is a run")
    for options in (("--hidden", 3), ("--shard", "2/2"), ("--ray", "any", "--shard", "0/2")):
        assert run("heads", "probe", bank, *out, *options).code == 2
    assert_one_line(run("heads", "show", tmp_path), 1, "holds no results of probes")
    assert not (tmp_path / "r").exists()


def test_heads_are_ranked(tmp_path: Path, run: Run) -> None:
    results = results_folder(tmp_path)
    outcome = run("heads", "rank", results, "--task", "TREC", "--n", 3)
    found = HeadResults.open(results)
    ranked = [line.split()[1:3] for line in outcome.out.splitlines()[1:4]]
    assert ranked == [[str(layer), str(head)] for layer, head in found.ranked("TREC", 3)]
    assert "accuracy of TREC, 3 of 12; majority 20.00, chance 16.67" in outcome.out
    rows = json.loads(run("heads", "rank", results, "--task", "TREC", "--json").out)
    assert len(rows) == 12 and rows[0]["selectivity"] is None and rows[0]["rank"] == 1
    blocks = run("heads", "rank", results, "--task", "TREC", "--location", "block", "--json").out
    assert [(row["layer"], row["head"]) for row in json.loads(blocks)] == [
        (1, None),
        (0, None),
        (2, None),
    ]


def test_ranking_without_a_dev_set_says_so(tmp_path: Path, run: Run) -> None:
    none = {"dev": np.nan, "majority": np.nan, "chance": np.nan, "metric": "pearson"}
    rows = [one | none | {"test": 0.1 * one["head"]} for one in head_rows(("STS12",), 1)]
    append(tmp_path, table(rows))
    outcome = run("heads", "rank", tmp_path, "--task", "STS12")
    assert "note: STS12 has no dev set: ranked by test" in outcome.err
    assert outcome.out.splitlines()[1].split() == ["1", "0", "3", "–", "0.300"]
    shown = run("heads", "show", tmp_path)
    assert "STS12*" in shown.out and "* no dev set: chosen on test" in shown.out


def test_the_papers_table_is_shown(tmp_path: Path, run: Run) -> None:
    outcome = run("heads", "show", results_folder(tmp_path))
    title, names, _, trec = outcome.out.splitlines()
    assert title == "tiny, logistic; on test" and outcome.err == ""
    assert [name for name in names.split("  ") if name][:3] == ["task", "last layer", "best layer"]
    assert trec.split()[:5] == ["TREC", "2", "61.00", "1", "60.00"]
    assert trec.split()[7:9] == ["4", "73.00"]
    only = json.loads(run("heads", "show", tmp_path, "--task", "SST2", "--json").out)
    assert [row["task"] for row in only["probes"]] == ["SST2"] and only["finetunes"] == []
    assert_one_line(run("heads", "show", tmp_path, "--task", "MR"), 1, "there are: SST2, TREC")


def test_what_is_missing_is_named(tmp_path: Path, run: Run) -> None:
    rows = head_rows(("TREC",))
    rows[5]["collapsed"] = True
    append(tmp_path, table(rows))
    outcome = run("heads", "show", tmp_path)
    assert "TREC: 1 of 12 heads have collapsed" in outcome.out
    assert "no layers of TREC: pyengine heads probe BANK --out" in outcome.err
    assert f"pyengine heads concat BANK {tmp_path} --n 4 --task TREC" in outcome.err


def test_one_of_several_ways_is_chosen(tmp_path: Path, run: Run) -> None:
    append(tmp_path, table(head_rows(("TREC",)) + head_rows(("TREC",), probe="ridge")))
    append(tmp_path, table(layer_rows(("TREC",), settings='{"folds": 7}')))
    several = run("heads", "rank", tmp_path, "--task", "TREC")
    assert_one_line(several, 1, "several probes: logistic, ridge; choose one with --where probe=")
    assert run("heads", "rank", tmp_path, "--task", "TREC", "--where", "probe=ri").code == 0
    wrong = run("heads", "rank", tmp_path, "--task", "TREC", "--where", "probe=svm")
    assert_one_line(wrong, 1, "no results with probe 'svm'")
    assert run("heads", "rank", tmp_path, "--task", "TREC", "--where", "ridge").code == 2
    shown = run("heads", "show", tmp_path).out
    assert shown.count("tiny, logistic; on test") == 2 and shown.count("tiny, ridge; on test") == 1
    assert 'bank bbbbbbbb; {"folds": 7}' in shown

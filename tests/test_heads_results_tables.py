"""Results of several kinds in one folder: scores beside classes, fine-tunings beside probes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from heads_results_helpers import head_rows, layer_rows, row, table

from pyengine import HeadResults, PyengineError
from pyengine.heads.finetune_table import FINETUNES
from pyengine.heads.results_table import append, short_name


def tuned(seed: int, test: float, task: str = "TREC", **more: Any) -> dict[str, Any]:
    heads = [{"layer": 0, "head": 1}]
    how = {"representation": "heads", "layer": -1, "heads": heads, "width": 2, "pooling": "first"}
    sizes = {"n_train": 10, "n_dev": 5, "n_test": 5, "n_classes": 6, "epochs": 3}
    usual = {"model": "tiny", "task": task, "seed": seed, "metric": "accuracy", "dev": 70.0}
    scores = {"test": test, "learning_rate": 2e-5, "majority": 20.0, "settings": "{}"}
    return {**usual, **how, **sizes, **scores, **more}


def test_one_run_on_tasks_of_all_kinds_is_one_table(tmp_path: Path, run: Run) -> None:
    none: dict[str, Any] = {"majority": np.nan, "chance": np.nan, "metric": "pearson"}
    rows = head_rows(("TREC",)) + head_rows(("STS-B",), settings='{"adam": 1}', **none)
    cosine: dict[str, Any] = {"probe": "cosine", "settings": "{}", **none}
    rows += [one | {"dev": np.nan} for one in head_rows(("STS12",), **cosine)]
    append(tmp_path, table(rows))
    shown = run("heads", "show", tmp_path).out.splitlines()
    assert shown[0] == "tiny, logistic; on test"
    assert [line.split()[0] for line in shown[2:]] == ["STS-B", "STS12*", "TREC", "*"]
    append(tmp_path, table(head_rows(("SST2",), settings='{"folds": 10}')))
    shown = run("heads", "show", tmp_path).out.splitlines()
    assert shown.count("tiny, logistic; on test") == 2
    assert sum('{"folds": 10}' in line for line in shown) == 1


def test_fine_tunings_are_means_over_seeds(tmp_path: Path) -> None:
    rows = [tuned(0, 80.0), tuned(1, 84.0), tuned(0, 50.0, settings='{"lr": 1}')]
    append(tmp_path, table([*rows, tuned(0, 60.0, "MR")], FINETUNES), FINETUNES)
    results = HeadResults.open(tmp_path)
    assert results.tasks == [] and results.summary().num_rows == 0
    found = results.where(task="TREC").finetuned().to_pylist()
    assert [(one["n_seeds"], one["test"], one["test_sd"]) for one in found] == [
        (1, 50.0, None),
        (2, 82.0, pytest.approx(8**0.5)),
    ]
    append(tmp_path, table([row(task="SST2")]))
    assert HeadResults.open(tmp_path).where(task="SST2").finetunes.num_rows == 0
    with pytest.raises(PyengineError, match="there are: MR, SST2, TREC"):
        HeadResults.open(tmp_path).where(task="CR")


def test_only_columns_of_numbers_are_scores(tmp_path: Path) -> None:
    append(tmp_path, table([*head_rows(("TREC",)), *layer_rows(("TREC",))]))
    results = HeadResults.open(tmp_path)
    assert (results.scores("TREC", part="epochs") == 8).all()
    for part in ("speed", "probe", "layer"):
        with pytest.raises(PyengineError, match=f"'{part}' is no column of scores"):
            results.scores("TREC", part=part)


def test_a_folder_goes_by_its_last_name(tmp_path: Path) -> None:
    assert short_name(str(tmp_path / "bert")) == "bert"
    assert short_name("google/t5-small") == "google/t5-small"

"""`pyengine shortcuts fit --dry-run`: what a fit draws, solves by and takes, beforehand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, assert_one_line
from shortcut_fit_cases import SMALL, loaded, texts

import pyengine
from pyengine import estimates
from pyengine.corpus import Corpus
from pyengine.estimates import estimate
from pyengine.scale.work import Work
from pyengine.shortcuts import solve_estimate
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.solve_estimate import solving_seconds
from pyengine.shortcuts.stack_fit import StackFit
from pyengine.shortcuts.stored_points import StoredPoints


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "SAMPLE_SECONDS", 0.02)


def work_of(model: pyengine.Model, **settings: Any) -> Work:
    return Work(fit_shortcuts, model, Corpus.from_texts(texts()), (), SMALL | settings)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gpt2", {"n_train": 30, "n_validation": 10}),
        ("gpt2", {"tokens": "all", "pairs": "all", "sub_modules": True}),
        ("bert", {"solver": "rows"}),
        ("t5", {"solver": "exact"}),
    ],
)
def test_what_is_said_is_what_the_fit_does(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = loaded(family, torch.float32)
    work = work_of(model, **settings)
    said = estimate(work, model)
    found = work.tokenized(model).run(model, tmp_path / "run", 0, 1)
    real = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert (said.cost, said.size) == (real["n_computed"], found.record["n_tokens"])
    assert 0 < said.seconds.low <= said.seconds.value <= said.seconds.high
    n_train, n_validation = (found.manifest["question"][n] for n in ("n_train", "n_validation"))
    assert said.n_units == n_train + n_validation
    assert "in 60 units" in said.notes["corpus"]
    for stack in found.stacks:
        train, validation = found.record["n_rows"][stack]
        n_points = len(found.points(stack).names)
        rows = f"{train} training and {validation} validation rows of {n_points} points"
        assert said.notes[stack] == rows
        solver, why = (found.manifest[name] for name in ("result", "why"))
        assert said.notes[f"{stack}, solver"] == f"{solver['solver'][stack]}: {why[stack]}"
    n_pairs = found.fits.num_rows // 2  # of either kind
    assert said.notes["solving"].endswith(f": {n_pairs} pairs")
    assert said.plan is not None and said.disk == said.plan.disk_bytes


@pytest.mark.parametrize("solver", ["rows", "gram", "exact"])
def test_wider_states_and_more_maps_take_longer(
    solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[int, int, int]] = []

    def seconds(_: str, n_rows: int, width: int, n_targets: int) -> float:
        timed.append((n_rows, width, n_targets))
        return 1.0 + n_targets  # 1 for the source, 1 for each map

    monkeypatch.setattr(solve_estimate, "_seconds", seconds)
    points = StoredPoints("decoder", (), 3, (), (), ("a", "b", "c", "d"))
    few = StackFit(points, "last", 16, "float32", solver)
    every = StackFit(points, "all", 16, "float32", solver)
    assert solving_seconds(few, 100) == 3 + 3
    assert solving_seconds(every, 100) == 3 + 6
    n_rows = {"rows": 100, "gram": 100, "exact": 1 + 2 * 16}
    assert timed[0] == (n_rows[solver], 16, 1)
    wide = StackFit(points, "last", 2048, "float32", solver)
    timed.clear()
    most = 8 * 2048  # rows: as many for each dimension as are timed
    assert solving_seconds(wide, most) == 6 * 4**3
    assert solving_seconds(wide, 2 * most) == 6 * 4**3 * (2 if solver == "rows" else 1)
    assert {width for _, width, _ in timed} == {512}


@pytest.mark.parametrize("solver", ["rows", "gram", "exact"])
def test_solving_is_really_timed(solver: str) -> None:
    points = StoredPoints("decoder", (), 2, (), (), ("a", "b", "c"))
    assert 0 < solving_seconds(StackFit(points, "all", 24, "float32", solver), 60) < 10


def test_a_dry_run_leaves_nothing(run: Run, model: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(texts()))
    command = ["shortcuts", "fit", model, corpus, "--unit", "line", "--out", tmp_path / "run"]
    shown = run(*command, "--dry-run")
    assert shown.code == 0, shown.err
    rows = {line[:16].strip(): line[16:].strip() for line in shown.out.splitlines() if line.strip()}
    assert rows["decoder"] == "45 training and 15 validation rows of 4 points"
    assert rows["decoder, solver"].startswith("gram: 45 rows hold more than 6 products")
    assert rows["memory"].startswith("model") and rows["time"].endswith("of one worker")
    said = json.loads(run(*command, "--dry-run", "--json").out)
    assert said["notes"]["decoder"] == rows["decoder"] and said["seconds"]["value"] > 0
    assert not (tmp_path / "run").exists()
    refused = run(*command, "--dry-run", "--preset", "wikipedia")
    assert_one_line(refused, 1, "60 units", "9000 to train on")
    assert run(*command, "--dry-run", "--shard", "0/2").code == 2

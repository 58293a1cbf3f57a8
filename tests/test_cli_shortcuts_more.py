"""`pyengine shortcuts tune` and `import`, and the Python of all commands."""

import json
from pathlib import Path
from typing import Any

import pytest
import shortcut_fit_cases as fit_cases
import torch
from command_line import Run, assert_one_line
from shortcut_score_cases import fitted
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import PyengineError
from pyengine.cache_files import write_tensors
from pyengine.shortcuts.early_exit_generation import generate
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.lens import Lens
from pyengine.shortcuts.points import points_of

PROMPT = "w1 w2 w3 w4"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(fit_cases.texts()))
    return path


@pytest.fixture
def fit(run: Run, model: Path, corpus: Path, tmp_path: Path) -> Path:
    done = run("shortcuts", "fit", model, corpus, "--unit", "line", "--out", tmp_path / "fit")
    assert done.code == 0, done.err
    return tmp_path / "fit"


@pytest.fixture
def matrices(fit: Path, tmp_path: Path) -> Path:
    """Write the maps of the fit as they are published."""
    shortcuts, folder = pyengine.open_run(fit), tmp_path / "matrices"
    for source, target in shortcuts.pairs():
        weight = shortcuts.map(source).weight
        write_tensors(folder / f"{source}_{target}.safetensors", {"A": weight})
    return folder


def test_tune(run: Run, model: Path, corpus: Path, fit: Path, tmp_path: Path) -> None:
    lens = tmp_path / "lens"
    command: list[object] = ["shortcuts", "tune", fit, model, corpus, "--unit", "line"]
    options: list[object] = ["--optimizer", "sgd", "--lr", 0.3, "--weight-decay", 0, "--clip", 2]
    options += ["--epochs", 40, "--batch-rows", 16, "--seed", 3]
    done = run(*command, *options, "--out", lens)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[1] == ["layer", "id", "affine", "tuned"]
    assert [line[0] for line in lines[2:]] == ["0", "1", "2"]
    assert f"--tuned-lens {lens}" in done.err
    again = run(*command, *options, "--out", tmp_path / "again", "--json")
    said = json.loads(again.out)
    assert [f"{row['tuned']:.3f}" for row in said["kl"]] == [line[3] for line in lines[2:]]
    assert said["n_samples"] == 15
    for name in ("config.json", "params.safetensors"):
        assert (lens / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    scores = ("shortcuts", "evaluate", fit, model, "--out", tmp_path / "scores", "--bootstrap", 0)
    rows = json.loads(run(*scores, "--tuned-lens", lens, "--json").out)["layers"]
    tuned = [row["kl"] for row in rows if row["mapping"] == "tuned"][:3]
    assert tuned == pytest.approx([row["tuned"] for row in said["kl"]], rel=1e-5)
    assert_one_line(run(*command, "--out", lens), 1, "is there already")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--optimizer", "lbfgs"], ["unknown optimizer 'lbfgs'"]),
        (["--lr", "0"], ["lr must be above 0"]),
        (["--epochs", "0"], ["epochs must be"]),
        (["--max-units", "20"], ["the corpus is not the one that was fitted on"]),
    ],
)
def test_tune_refuses(
    run: Run,
    model: Path,
    corpus: Path,
    fit: Path,
    tmp_path: Path,
    options: list[str],
    words: list[str],
) -> None:
    command = ("shortcuts", "tune", fit, model, corpus, "--unit", "line", "--out", tmp_path / "l")
    assert_one_line(run(*command, *options), 1, "error:", *words)
    assert not (tmp_path / "l").exists()


def test_import_scores_as_the_fit(
    run: Run, model: Path, fit: Path, matrices: Path, tmp_path: Path
) -> None:
    out = tmp_path / "published"
    command = ("shortcuts", "import", matrices, model, "--out", out)
    done = run(*command, "--validation", fit)
    assert done.code == 0, done.err
    assert "decoder: 3 pairs of 4 layers" in done.out and "15 validation tokens" in done.err
    assert "how they were fitted is not known" in run("show", out).out
    assert_one_line(run(*command), 1, "is there already")
    scores: list[list[Any]] = []
    for maps in (fit, out):
        more = ("--out", tmp_path / f"{maps.name}-scores", "--bootstrap", 0, "--json")
        rows = json.loads(run("shortcuts", "evaluate", maps, model, *more).out)["layers"]
        scores.append([row for row in rows if row["mapping"] != "affine"])
    assert scores[0] == scores[1] and {row["mapping"] for row in scores[1]} == {"id", "mat"}


def test_import_without_rows_is_not_scored(
    run: Run, model: Path, matrices: Path, tmp_path: Path
) -> None:
    out, scores = tmp_path / "published", tmp_path / "scores"
    done = run("shortcuts", "import", matrices, model, "--out", out, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said == {"run": str(out), "pairs": [[0, 3], [1, 3], [2, 3]], "n_validation": 0}
    refused = run("shortcuts", "evaluate", out, model, "--out", scores)
    assert_one_line(refused, 1, "without validation states", "--validation FIT")
    assert not scores.exists()
    command = ("shortcuts", "generate", out, model, PROMPT, "--max-new-tokens", 3)
    assert_one_line(run(*command), 1, "without validation states")
    assert run(*command, "--mean-length", 5).code == 0


def test_import_refuses(run: Run, model: Path, fit: Path, matrices: Path, tmp_path: Path) -> None:
    tiny_model("gpt2", seed=4).save_pretrained(other := tmp_path / "other")
    word_tokenizer().save_pretrained(other)
    command = ("shortcuts", "import", matrices, other, "--out", tmp_path / "published")
    assert_one_line(run(*command, "--validation", fit), 1, "another model")
    (matrices / "2_3.safetensors").unlink()
    assert_one_line(run(*command), 1, "lacks the matrix 2_3")
    assert not (tmp_path / "published").exists()


def test_rows_are_read_again_as_the_fit_read_them() -> None:
    model, fit = fit_cases.loaded("bert", torch.float64), fit_cases.fitted("bert")
    question = fit.manifest["question"]
    assert question["adds_special"] and question["mask_id"] is not None
    points = {"encoder": points_of(model, "encoder")}
    maps = {"encoder": {pair: {"mat": fit.map(*pair)} for pair in fit.pairs()}}
    given = pyengine.Shortcuts.from_maps(model, points, maps, {}, pairs="last")
    settings: dict[str, Any] = {"mappings": ["mat"], "bootstrap": 0}
    found, expected = (of.evaluate(model, **settings) for of in (given.scored_on(fit), fit))
    assert found.exits is not None and found.exits.equals(expected.exits)
    masked = given.scored_on(fit).manifest["question"]
    assert all(masked[name] == question[name] for name in ("mask_id", "adds_special", "bos"))
    with pytest.raises(PyengineError, match="without validation states"):
        given.evaluate(model, **settings)


def test_methods_are_the_functions() -> None:
    model, shortcuts = fitted()
    h = torch.randn(2, 20)
    own = {layer: shortcuts.map(layer) for layer in range(3)}
    for kind in ("affine", "mat@3", own):
        expected = Lens(model, shortcuts, kind).logits(h, 1)
        assert torch.equal(shortcuts.lens(model, kind).logits(h, 1), expected)
    settings: dict[str, Any] = {"mappings": ["mat"], "bootstrap": 5, "seed": 2}
    scores = shortcuts.evaluate(model, **settings).layers
    assert scores is not None and scores.equals(evaluate(shortcuts, model, **settings).layers)
    how: dict[str, Any] = {"early_exit": 0.1, "max_new_tokens": 4, "kind": "affine"}
    (mine,), (theirs,) = (
        shortcuts.generate(model, [[5, 6, 7]], **how),
        generate(model, shortcuts, [[5, 6, 7]], **how),
    )
    assert torch.equal(mine.tokens, theirs.tokens) and torch.equal(mine.layers, theirs.layers)
    assert shortcuts.kinds() == ["mat", "affine"]

"""`pyengine shortcuts generate` and `evaluate --wall-clock`, through maps of any kind."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import shortcut_fit_cases as fit_cases
from command_line import Run, assert_one_line
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine.run import verify
from pyengine.shortcuts.tuned_lens_files import save_tuned_lens

PROMPT = "w1 w2 w3 w4"
NEVER = "1.112"


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


def test_times_lie_beside_the_result(run: Run, model: Path, fit: Path, tmp_path: Path) -> None:
    command: list[object] = ["shortcuts", "evaluate", fit, model, "--bootstrap", 0, "--ranks", 2]
    plain, timed = tmp_path / "plain", tmp_path / "timed"
    assert run(*command, "--out", plain).code == 0
    done = run(*command, "--out", timed, "--wall-clock", 2)
    assert done.code == 0, done.err
    heading = done.out.splitlines().index(
        "Really stopping, one unit at a time, against whole passes"
    )
    rows = [line.split() for line in done.out.splitlines()[heading + 2 : heading + 7]]
    assert [row[0] for row in rows] == ["id", "mat", "affine", "mat@2", "affine@2"]
    assert verify(timed)["files"] == verify(plain)["files"]
    assert {file.name for file in timed.iterdir()} - {file.name for file in plain.iterdir()} == {
        "wall_clock.parquet"
    }
    kept = pq.read_table(timed / "wall_clock.parquet").to_pylist()
    again = json.loads(run(*command, "--out", timed, "--wall-clock", 3, "--json").out)
    assert [row["lambda"] for row in again["wall_clock"]] == [row["lambda"] for row in kept]
    assert all(row["seconds"] > 0 for row in again["wall_clock"])
    shown = json.loads(run("show", timed, "--json").out)
    assert shown["wall_clock"] == again["wall_clock"] and shown["layers"] == again["layers"]
    said = run("show", timed).out.splitlines()
    assert "Really stopping, one unit at a time, against whole passes" in said
    assert [line.split()[0] for line in said if " ms " in line] == [row[0] for row in rows]
    assert json.loads(run("show", plain, "--json").out)["wall_clock"] is None
    assert "Really stopping" not in run("show", plain).out
    copied = pyengine.open_run(timed).save(tmp_path / "copied")
    assert pyengine.open_run(copied).wall_clock.to_pylist() == again["wall_clock"]


def test_the_cheapest_threshold_is_timed(run: Run, model: Path, fit: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    command = ("shortcuts", "evaluate", fit, model, "--bootstrap", 0, "--mappings", "mat")
    done = run(*command, "--out", out, "--wall-clock", 1, "--json")
    assert done.code == 0, done.err
    (timed,) = json.loads(done.out)["wall_clock"]
    exits = pyengine.open_run(out).exits.to_pylist()
    layers = {row["lambda"]: row["mean_layer"] for row in exits if row["rule"] == "adaptive"}
    (saving,) = [row for row in json.loads(done.out)["savings"] if row["rule"] == "adaptive"]
    assert layers[timed["lambda"]] == saving["mean_layer"]


def test_exits_that_are_not_scored_are_not_timed(
    run: Run, model: Path, fit: Path, tmp_path: Path
) -> None:
    command = ("shortcuts", "evaluate", fit, model, "--out", tmp_path / "scores", "--wall-clock")
    assert_one_line(run(*command, 3, "--no-early-exit"), 2, "--no-early-exit")
    assert run(*command, 0).code == 2
    assert not (tmp_path / "scores").exists()


def test_generate(run: Run, model: Path, fit: Path) -> None:
    command = ("shortcuts", "generate", fit, model, PROMPT, "--max-new-tokens", 5)
    said = json.loads(run(*command, "--early-exit", NEVER, "--json").out)
    loaded = pyengine.load(str(model))
    plain = pyengine.generate(loaded, PROMPT, max_new_tokens=5, do_sample=False)[0].tolist()
    assert said["new_tokens"] == plain[-len(said["new_tokens"]) :]
    assert set(said["layers"]) == {said["n_layers"]} == {3}
    early = run(*command, "--early-exit", "-1.112", "--mapping", "affine", "--layers")
    assert early.code == 0, early.err
    lines = early.out.splitlines()
    assert lines[0].startswith(PROMPT) and lines[1].split() == ["token", "layer"]
    assert [line.split()[-2] for line in lines[2:]] == ["1"] * len(lines[2:])
    assert len(lines) > 2
    assert "tokens from layer 1.0 of 3 on average" in early.err


def test_a_tuned_lens_is_named_everywhere_alike(
    run: Run, model: Path, fit: Path, tmp_path: Path
) -> None:
    loaded, shortcuts, lens = pyengine.load(str(model)), pyengine.open_run(fit), tmp_path / "lens"
    maps = {layer: shortcuts.map(layer, kind="affine") for layer in range(3)}
    save_tuned_lens(lens, maps, loaded)
    given = ("--tuned-lens", lens)
    command = ("shortcuts", "generate", fit, model, PROMPT, "--early-exit", 0.2, "--json")
    found = [
        json.loads(run(*command, *how).out)
        for how in (given, (*given, "--mapping", "tuned"), ("--mapping", "affine"), ())
    ]
    assert found[0] == found[1] == found[2]
    assert_one_line(run(*command, "--mapping", "tuned"), 2, "tuned needs --tuned-lens FOLDER")
    twice = run(*command, *given, "--mapping", "id")
    assert_one_line(twice, 2, "--tuned-lens is not read by --mapping id")

    score = ("shortcuts", "evaluate", fit, model, "--bootstrap", 0)
    options = ("--mappings", "tuned,affine", "--transfer", "tuned", "--wall-clock", 1, "--json")
    done = run(*score, *given, *options, "--out", tmp_path / "scores")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert [row["mapping"] for row in said["wall_clock"]] == ["affine", "tuned"]
    assert said["wall_clock"][0]["lambda"] == said["wall_clock"][1]["lambda"]
    assert {row["mapping"] for row in said["transfer"]} == {"tuned"}
    alone = run(*score, *given, "--mappings", "tuned", "--json", "--out", tmp_path / "alone")
    assert {row["mapping"] for row in json.loads(alone.out)["layers"]} == {"tuned"}
    for option in ("--mappings", "--transfer"):
        refused = run(*score, option, "tuned", "--out", tmp_path / "none")
        assert_one_line(refused, 2, "tuned needs --tuned-lens FOLDER")
    assert not (tmp_path / "none").exists()


def test_generate_refuses(run: Run, corpus: Path, fit: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "bert", tmp_path / "bert-fit"
    tiny_model("bert").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    again = run("shortcuts", "generate", fit, folder, PROMPT)
    assert_one_line(again, 1, "belong to another model")
    done = run("shortcuts", "fit", folder, corpus, "--unit", "line", "--no-mask", "--out", out)
    assert done.code == 0, done.err
    assert_one_line(run("shortcuts", "generate", out, folder, PROMPT), 1, "causal models")
    assert_one_line(run("shortcuts", "generate", corpus.parent, folder, PROMPT), 1, "manifest")

"""`pyengine shortcuts fit` on the command line."""

import json
from pathlib import Path

import pytest
from command_line import Run, assert_one_line
from shortcut_fit_cases import texts
from tiny_models import tiny_model, word_tokenizer

from pyengine.run import open_run, verify
from pyengine.shortcuts.result import Shortcuts


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(texts()))
    return path


UNITS = ("--unit", "line", "--batch-tokens", 64, "--block-tokens", 40)


def test_fit_says_what_it_found(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("shortcuts", "fit", model, corpus, *UNITS, "--out", out)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == [
        *("stack", "layer", "maps", "rank", "cond", "affine", "rank", "cond", "rows", "solver")
    ]
    assert [line.split()[:3] for line in lines[1:4]] == [["decoder", str(i), "1"] for i in range(3)]
    assert {line.split()[-1] for line in lines[1:4]} == {"gram"}
    assert "45 training and 15 validation rows of 4 points; solved from float64 sums" in done.err
    assert "more than 6 products of points" in done.err and f"→ {out}" in done.err
    assert "warning" not in done.err
    found = open_run(out)
    assert isinstance(found, Shortcuts) and found.pairs() == [(0, 3), (1, 3), (2, 3)]
    shown = run("show", out)
    assert shown.code == 0 and shown.out.splitlines()[1:5] == lines[:4]
    assert run("verify", out).out.split()[-4:] == ["is", "complete", "and", "intact"]
    again = run("shortcuts", "fit", model, corpus, *UNITS, "--out", out)
    assert again.code == 0 and again.out == done.out


def test_every_option_arrives(run: Run, corpus: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "t5", tmp_path / "run"
    tiny_model("t5").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    options: list[object] = [
        "--all-pairs",
        "--sub-modules",
        "--stack",
        "decoder",
        "--tokens",
        "all",
    ]
    options += ["--train", 30, "--validation", 9, "--seed", 5, "--skip-first", 1, "--no-special"]
    options += ["--solver", "exact", "--ridge", 0.5, "--rcond", 1e-5, "--activation", "model"]
    done = run("shortcuts", "fit", folder, corpus, *UNITS, *options, "--out", out, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["run"] == str(out) and set(said["solver"]) == {"decoder"}
    assert {row["solver"] for row in said["sources"]} == set(said["solver"].values())
    inside = [row for row in said["sources"] if row["source"] > 3]
    assert len(inside) == 3 * 8 and inside[0]["site"] == "decoder_blocks.0.ln1.hook_out"
    manifest = open_run(out).manifest
    asked = {"pairs": "all", "tokens": "all", "seed": 5, "skip_first": 1, "special": False}
    asked |= {"n_train": 30, "n_validation": 9, "ridge": 0.5, "rcond": 1e-5, "stacks": ["decoder"]}
    assert manifest["question"].items() >= asked.items()
    assert manifest["question"]["points"]["decoder"]["taps"]
    assert manifest["numerics"]["activation"] == "model"


def test_shards_are_merged(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    command = ["shortcuts", "fit", model, corpus, *UNITS, "--tokens", "all"]
    assert run(*command, "--out", tmp_path / "whole").code == 0
    for index in range(3):
        part = run(*command, "--out", tmp_path / "run", "--shard", f"{index}/3")
        assert part.code == 0, part.err
        assert "merge with: pyengine merge" in part.err and not part.out
        assert "has none of" not in part.err
    merged = run("merge", tmp_path / "run", "--out", tmp_path / "run")
    assert merged.code == 0, merged.err
    assert verify(tmp_path / "run")["files"] == verify(tmp_path / "whole")["files"]


def test_a_shard_without_work_says_why(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    command = ["shortcuts", "fit", model, corpus, *UNITS, "--block-tokens", 100_000]
    said = []
    for index in range(3):
        part = run(*command, "--solver", "rows", "--out", tmp_path / "run", "--shard", f"{index}/3")
        assert part.code == 0, part.err
        assert ("\n0 tokens" in part.err) == ("a smaller --block-tokens" in part.err)
        said.append("this shard has none of the sample's blocks" in part.err)
    assert sorted(said) == [False, True, True]  # all is one block


def test_singular_sources_are_said(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    few = ["--train", 12, "--validation", 5]
    done = run("shortcuts", "fit", model, corpus, *UNITS, *few, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "warning: 3 sources of mat maps singular (rank 12 of 20" in done.err
    assert "warning: 3 sources of affine maps singular (rank 11 of 20" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "wikipedia"], ["60 units", "9000 to train on and 3000"]),
        (["--preset", "news"], ["unknown preset 'news'", "wikipedia"]),
        (["--tokens", "two"], ["tokens", "'two'", "one, all"]),
        (["--stack", "encoder"], ["no encoder"]),
        (["--solver", "svd"], ["solver", "auto, rows, gram, exact"]),
        (["--ridge", "-1"], ["ridge"]),
        (["--mask"], ["a mask is for"]),
        (["--train", "0"], ["n_train must be at least 1"]),
        (["--batch-tokens", "0"], ["batch_tokens"]),
    ],
)
def test_bad_settings(
    run: Run, model: Path, corpus: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    command = ("shortcuts", "fit", model, corpus, "--unit", "line", "--out", tmp_path / "run")
    assert_one_line(run(*command, *options), 1, "error:", *words)
    assert not (tmp_path / "run").exists()


def test_other_commands_say_what_they_read(
    run: Run, model: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run("shortcuts", "fit", model, corpus, *UNITS, "--out", out).code == 0
    assert_one_line(run("compare", out, out), 1, "holds shortcuts; compare reads triggers")
    refused = run("export", out, "--out", tmp_path / "x")
    assert_one_line(refused, 1, "Shortcuts is not exported")
    assert run("show", out, "--layer", 1, "--dim", 2).code == 2
    assert "20,000" in run("shortcuts", "fit", "--help").out

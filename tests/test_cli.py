"""The command line: what it prints, and one clear line with the right exit code for bad input."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import WORDS, Run, assert_one_line
from tiny_models import tiny_model


def test_triggers_show_export_verify_compare(
    run: Run, model: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = run("triggers", model, corpus, "--out", out, "--k", 3, "--unit", "line", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert (summary["n_units"], summary["n_tokens"], summary["k"]) == (4, 11, 3)

    shown = run("show", out, "--layer", 1, "--dim", 5)
    assert shown.code == 0
    assert "layer 1, dim 5" in shown.out and "«w" in shown.out
    entries = json.loads(run("show", out, "--layer", 1, "--dim", 5, "--json").out)["max"]
    assert [entry["rank"] for entry in entries] == [0, 1, 2]
    assert "4 units, 11 tokens" in " ".join(run("show", out).out.split())  # it may be wrapped

    assert "intact" in run("verify", out).out
    assert "100.0000%" in run("compare", out, out).out

    assert run("export", out, "--format", "parquet", "--out", tmp_path / "t.parquet").code == 0
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 3 * 37 * 3


def test_shards_and_merge(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    common = ["triggers", model, corpus, "--unit", "line", "--k", 2, "--block-tokens", 4]
    assert run(*common, "--out", tmp_path / "whole").code == 0
    for index in (0, 1):
        done = run(*common, "--out", tmp_path / f"part{index}", "--shard", f"{index}/2")
        assert done.code == 0, done.err
        assert "merge with" in done.err
    merged = run("merge", tmp_path / "part0", tmp_path / "part1", "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
    name = "triggers.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()


def test_compressed_and_tokenised_corpora(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(WORDS.encode()))
    np.save(tmp_path / "ids.npy", np.arange(4, 40).reshape(4, 9))
    (tmp_path / "c.jsonl").write_text(json.dumps({"body": "w1 w2"}) + "\n")
    for name, more in {
        "c.txt.gz": ["--unit", "line"],
        "ids.npy": [],
        "c.jsonl": ["--field", "body"],
    }.items():
        done = run("triggers", model, tmp_path / name, "--out", tmp_path / f"run-{name}", *more)
        assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("missing.txt", None, ["missing.txt"]),
        ("empty.txt", b"", ["empty.txt"]),
        ("blank.txt", b"\n \n\n", ["blank.txt"]),
        ("latin.txt", b"w1 w2\nw3 \xff w4\n", ["latin.txt", "2", "UTF-8"]),
        ("bad.jsonl", b'{"text": "w1"}\nnot json\n', ["bad.jsonl:2"]),
        ("field.jsonl", b'{"body": "w1"}\n', ["field.jsonl:1", "text"]),
        ("thing.xyz", b"w1 w2", ["thing.xyz"]),
    ],
)
def test_bad_corpus(
    run: Run, model: Path, tmp_path: Path, name: str, contents: bytes | None, words: list[str]
) -> None:
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    outcome = run("triggers", model, tmp_path / name, "--out", tmp_path / "run")
    assert_one_line(outcome, 1, "error:", *words)
    assert not (tmp_path / "run").exists()


def test_a_directory_for_a_file(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    outcome = run("triggers", model, tmp_path / "folder.txt", "--out", tmp_path / "run")
    assert_one_line(outcome, 1, "folder.txt", "directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_unreadable_file_and_read_only_output(
    run: Run, model: Path, corpus: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert_one_line(run("triggers", model, corpus, "--out", closed / "run"), 1, "cannot write")
    corpus.chmod(0)
    assert_one_line(run("triggers", model, corpus, "--out", tmp_path / "run"), 1, "corpus.txt")


def test_output_that_cannot_be_written(run: Run, model: Path, corpus: Path) -> None:
    outcome = run("triggers", model, corpus, "--out", "/proc/nowhere/run")
    assert_one_line(outcome, 1, "error: cannot write /proc/nowhere/run")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_keeps_what_was_there(
    run: Run, model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    first = run("triggers", model, corpus, "--out", out, "--shard", "0/2")
    assert first.code == 0, first.err
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}

    def full(descriptor: int) -> None:
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")

    monkeypatch.setattr(os, "fsync", full)
    outcome = run("triggers", model, corpus, "--out", out, "--shard", "1/2")
    assert_one_line(outcome, 1, "error: cannot write", "No space left on device")
    monkeypatch.undo()
    assert all(file.read_bytes() == contents for file, contents in before.items())
    assert not list(out.rglob(".*.safetensors*")), "temporary files were left behind"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--k", "0"], ["k must be from 1 to 1024, got 0"]),
        (["--dims", "5000"], ["dim 5000 is out of range; the model has 0 to 36"]),
        (["--layers", "0-9"], ["layer 3 is out of range"]),
        (["--per", "word"], ["unknown per 'word'"]),
        (["--unit", "page"], ["unit"]),
        (["--max-units", "0"], ["max_units"]),
        (["--dtype", "int8"], ["unknown dtype 'int8'"]),
        (["--dtype", "tf32", "--device", "cpu"], ["tf32 needs a CUDA device"]),
        (["--device", "gpu"], ["unknown device 'gpu'"]),
        (["--bos", "--unit", "window"], ["window"]),
    ],
)
def test_bad_settings(
    run: Run, model: Path, corpus: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    outcome = run("triggers", model, corpus, "--out", tmp_path / "run", *options)
    assert_one_line(outcome, 1, "error:", *words)


@pytest.mark.parametrize(
    "options",
    [
        ["--shard", "2/2"],
        ["--shard", "x"],
        ["--dims", "a"],
        ["--dims", "5-2"],
        ["--no-such-option"],
        ["--k", "many"],
        ["--threads", "0"],
    ],
)
def test_wrong_usage_exits_with_2(
    run: Run, model: Path, corpus: Path, tmp_path: Path, options: list[str]
) -> None:
    outcome = run("triggers", model, corpus, "--out", tmp_path / "run", *options)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert run("no-such-command").code == 2
    assert run("show", tmp_path, "--layer", "1").code == 2


def test_bad_models(run: Run, corpus: Path, tmp_path: Path, model: Path) -> None:
    out = tmp_path / "run"
    outcome = run("triggers", tmp_path / "nothing", corpus, "--out", out)
    assert_one_line(outcome, 1, "cannot load model", "nothing")
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "config.json").write_text('{"model_type": "opt"}')
    outcome = run("triggers", tmp_path / "opt", corpus, "--out", out)
    assert_one_line(outcome, 1, "unknown architecture 'opt'", "bert, electra, gpt2, gpt_neo")
    hf = tiny_model("gpt2")
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_fc.weight[3, 3] = float("nan")
    hf.save_pretrained(model)
    assert_one_line(run("triggers", model, corpus, "--out", out), 1, "holds NaN")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert_one_line(run("triggers", model, corpus, "--out", out), 1, "cannot load model")


def test_missing_weights_are_refused(run: Run, corpus: Path, tmp_path: Path, model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    outcome = run("triggers", model, corpus, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "lack" in outcome.err.splitlines()[-1] and "h.1.mlp.c_fc.weight" in outcome.err


@pytest.mark.parametrize("command", ["show", "verify", "export", "merge", "compare"])
def test_what_is_not_a_run_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    more: dict[str, list[object]] = {"export": ["--out", "x"], "compare": [tmp_path]}
    more["merge"] = ["--out", tmp_path / "y"]
    outcome = run(command, tmp_path / "nothing", *more.get(command, []))
    assert_one_line(outcome, 1, "is not a run directory")


def test_help_shows_an_example_of_every_command(run: Run) -> None:
    commands = "demo triggers agreement predictions show merge verify compare export bench"
    for command in commands.split():
        outcome = run(command, "--help")
        assert outcome.code == 0
        assert f"Example: pyengine {command}" in outcome.out

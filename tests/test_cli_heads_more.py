"""`pyengine heads concat`, `encode` and `finetune`."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import Run, assert_one_line
from finetune_cases import easy_task
from heads_helpers import small_tasks
from safetensors.torch import load_file
from tiny_models import tiny_model

import pyengine
from pyengine import HeadResults, SentenceEncoder, load
from pyengine.heads.task import Task

LINES = ["w1 w2 w3", "", "w9", "w4 w5 w6 w7\u2028w8"]


@pytest.fixture
def bank(model: Path, tmp_path: Path) -> Path:
    loaded = load(model, device="cpu")
    pyengine.extract_heads(loaded, small_tasks(), out=tmp_path / "bank", locations=("head",))
    return tmp_path / "bank"


@pytest.fixture
def results(bank: Path, tmp_path: Path) -> Path:
    opened = pyengine.open_run(bank)
    pyengine.probe_heads(opened, ["A"], out=tmp_path / "r", probe="ridge", device="cpu")
    return tmp_path / "r"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    return write_task(easy_task(), tmp_path / "easy.tsv")


def write_task(task: Task, path: Path) -> Path:
    rows = ["split\tlabel\ttext"]
    for part, examples in task.parts.items():
        for text, target in zip(examples.first, examples.targets, strict=True):
            rows.append(f"{part}\t{task.labels[target]}\t{text}")
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_curve_is_shown_and_kept(run: Run, bank: Path, results: Path) -> None:
    command = ("heads", "concat", bank, results, "--task", "A", "--probe", "ridge")
    done = run(*command, "--n", "1-2,4")
    assert done.code == 0, done.err
    header, *rows = done.out.splitlines()
    assert header.split() == ["n", "width", "dev", "test"]
    table = HeadResults.open(results).concats.to_pylist()
    assert [row.split()[0] for row in rows[:3]] == ["1", "2", "4"]
    assert [row.split()[1] for row in rows[:3]] == ["5", "10", "20"]
    assert [float(row.split()[2]) for row in rows[:3]] == [row["dev"] for row in table]
    assert "model's width" in rows[2]
    best = max(table, key=lambda row: (row["dev"], -row["n"]))["n"]
    assert [line for line in rows if "best on dev" in line] == [rows[[1, 2, 4].index(best)]]
    assert "accuracy of A; bars: test above the majority class" in rows[3]
    assert "next: pyengine heads encode MODEL TEXTS" in done.err
    stepped = json.loads(run(*command, "--step", 5, "--json").out)
    assert [point["n"] for point in stepped] == [5, 10]
    assert stepped[0]["heads"] == [list(head) for head in HeadResults.open(results).ranked("A", 5)]
    everything = json.loads(run(*command, "--json").out)
    assert [point["n"] for point in everything] == list(range(1, 13))


def test_curves_that_cannot_be(run: Run, bank: Path, results: Path, tmp_path: Path) -> None:
    command = ("heads", "concat", bank, results, "--probe", "ridge")
    assert_one_line(run(*command, "--task", "A", "--n", "13"), 1, "n must be from 1 to 12")
    assert_one_line(run(*command, "--task", "A", "--n", "x"), 2, "x")
    assert_one_line(run(*command, "--task", "A", "--n", "1", "--step", 2), 2, "not both")
    assert_one_line(run(*command, "--task", "C"), 1, "the bank has no task 'C'")
    assert_one_line(run("heads", "concat", bank, tmp_path, "--task", "A"), 1, "no results")


def test_lines_become_vectors(
    run: Run, model: Path, results: Path, lines: Path, tmp_path: Path
) -> None:
    out, saved = tmp_path / "v.safetensors", tmp_path / "encoder"
    command = ("heads", "encode", model, lines, "--results", results, "--task", "A", "--n", 3)
    done = run(*command, "--out", out, "--save", saved)
    assert done.code == 0, done.err
    heads = HeadResults.open(results).ranked("A", 3)
    wanted = SentenceEncoder(load(model, device="cpu"), heads).encode(LINES)
    vectors = load_file(out)
    assert vectors.keys() == {"vectors"}
    assert torch.equal(vectors["vectors"], torch.from_numpy(wanted))
    assert wanted.shape == (4, 15)
    again = tmp_path / "v.npy"
    summary = json.loads(run("heads", "encode", saved, lines, "--out", again, "--json").out)
    assert (np.load(again, allow_pickle=False) == wanted).all()
    assert summary["heads"] == [list(head) for head in heads]
    assert (summary["width"], summary["n_texts"]) == (15, 4)


def test_heads_by_hand(run: Run, model: Path, lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npy"
    command = ("heads", "encode", model, lines, "--heads", "2.1,0", "--pooling", "mean")
    done = run(*command, "--normalize", "--out", out)
    assert done.code == 0, done.err
    encoder = SentenceEncoder(load(model, device="cpu"), [(2, 1), (0, -1)], pooling="mean")
    wanted = encoder.encode(LINES, normalize_embeddings=True)
    assert (np.load(out) == wanted).all()


def test_what_encode_cannot_do(
    run: Run, model: Path, results: Path, lines: Path, tmp_path: Path
) -> None:
    out, command = tmp_path / "v.npy", ("heads", "encode", model, lines)
    assert_one_line(run(*command, "--heads", "0.1"), 2, "go together")
    assert_one_line(run("heads", "encode", model, "--heads", "0.1"), 2, "nothing to do")
    assert_one_line(run(*command, "--out", out), 2, "--results")
    assert_one_line(run(*command, "--heads", "a.b", "--out", out), 2, "layer.head")
    assert_one_line(run(*command, "--heads", "0.9", "--out", out), 1, "has 4 parts, not 9")
    assert_one_line(run(*command, "--heads", "0.1", "--out", tmp_path / "v.bin"), 2, ".npy")
    assert_one_line(run(*command, "--results", results, "--out", out), 2, "--task")
    more = ("--results", results, "--task", "A", "--out", out)
    assert_one_line(run(*command, *more), 1, "no heads were concatenated for A")
    lines.write_text("")
    assert_one_line(run(*command, "--heads", "0.1", "--out", out), 1, "is empty")
    SentenceEncoder(load(model, device="cpu"), [(0, 0)]).save(tmp_path / "encoder")
    tiny_model("gpt2", seed=1).save_pretrained(model)
    lines.write_text("w1\n")
    saved = ("heads", "encode", tmp_path / "encoder", lines, "--out", out)
    assert_one_line(run(*saved), 1, "of another model")
    assert not out.exists()


def test_a_model_is_tuned(run: Run, model: Path, task_file: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "r", tmp_path / "tuned"
    command = ("heads", "finetune", model, task_file, "--epochs", 1, "--lr", 1e-3, "--out", out)
    done = run(
        *command, "--representation", "heads", "--heads", "1.0,0.2", "--seed", 0, "--seed", 1
    )
    assert done.code == 0, done.err
    rows = pq.read_table(out / "finetunes.parquet").to_pylist()
    assert [row["seed"] for row in rows] == [0, 1]
    assert [row["heads"] for row in rows] == [
        [{"layer": 1, "head": 0}, {"layer": 0, "head": 2}]
    ] * 2
    shown = [line.split() for line in done.out.splitlines()]
    assert shown[0] == ["seed", "metric", "dev", "test"]
    assert [float(cell) for cell in shown[1][2:]] == [rows[0]["dev"], rows[0]["test"]]
    assert shown[3][:2] == ["mean", "accuracy"]
    assert "from 2 heads of model, width 10" in done.out
    table = run("heads", "show", out)
    assert table.out.splitlines()[0].startswith("model, fine-tuned (1 epoch, 0.001)")
    assert table.out.splitlines()[2].split()[:5] == ["easy", "2", "heads", "accuracy", "2"]
    (mean,) = json.loads(run("heads", "show", out, "--json").out)["finetunes"]
    assert mean["test"] == pytest.approx((rows[0]["test"] + rows[1]["test"]) / 2)
    assert_one_line(run("heads", "plot", out, "--out", tmp_path / "p"), 1, "no probes of 'head'")
    assert_one_line(run("heads", "rank", out, "--task", "easy"), 1, "there are: none")
    again = run(*command, "--seed", 0, "--save", saved, "--json")
    (record,) = json.loads(again.out)
    assert (record["layer"], record["representation"]) == (2, "last")
    assert f"next: pyengine heads extract {saved}" in again.err
    assert load(saved, device="cpu").n_layers == 3


def test_what_finetune_cannot_do(run: Run, model: Path, task_file: Path, tmp_path: Path) -> None:
    command = ("heads", "finetune", model, task_file)
    out = ("--out", tmp_path / "r")
    assert_one_line(run(*command), 2, "--out")
    assert_one_line(run(*command, *out, "--representation", "best"), 1, "needs results")
    assert_one_line(run(*command, *out, "--dtype", "bfloat16"), 1, "float32 weights")
    assert_one_line(run(*command, *out, "--representation", "x"), 1, "unknown representation")
    assert_one_line(run("heads", "finetune", model, "COCO", *out), 1, "COCO")

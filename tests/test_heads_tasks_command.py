"""`pyengine heads tasks`."""

import json
from pathlib import Path

import numpy as np
from command_line import Run, assert_one_line
from generated_cases import SIZES, assert_balanced, corpus, every

from pyengine.heads.generated_tasks import generate_task
from pyengine.heads.task_names import read_task

COMMAND = ("--train", 60, "--dev", 12, "--test", 12, "--words", 6, "--first-rank", 4)


def text_file(folder: Path) -> Path:
    path = folder / "corpus.txt"
    path.write_text("\n".join(corpus()))
    return path


def test_the_command_writes_probing_files(tmp_path: Path, run: Run) -> None:
    outcome = run("heads", "tasks", text_file(tmp_path), "--out", tmp_path / "tasks", *COMMAND)
    assert outcome.code == 0, outcome.err
    for kind, n_classes in (("sentence_length", 6), ("bigram_shift", 2), ("word_content", 6)):
        path = tmp_path / "tasks" / f"{kind}.txt"
        assert_balanced(read_task(path), n_classes)
        assert f"{kind}.txt" in outcome.out  # however long the folder's path is
    assert "next: pyengine heads extract" in outcome.err
    again = run("heads", "tasks", text_file(tmp_path), "--out", tmp_path / "tasks", *COMMAND)
    assert_one_line(again, 1, "sentence_length.txt exists already")


def test_the_command_prints_json(tmp_path: Path, run: Run) -> None:
    chosen = ("--task", "bigram_shift", "--json", "--max-units", 700)
    outcome = run("heads", "tasks", text_file(tmp_path), "--out", tmp_path, *COMMAND, *chosen)
    path = tmp_path / "bigram_shift.txt"
    assert json.loads(outcome.out) == [
        {"task": "bigram_shift", "classes": 2, "train": 60, "dev": 12, "test": 12}
        | {"file": str(path)}
    ]
    made = generate_task("bigram_shift", corpus()[:700], **SIZES)
    assert every(read_task(path)) == every(made)
    assert [*tmp_path.glob("*_*.txt")] == [path]


def test_the_command_refuses_what_it_cannot_make(tmp_path: Path, run: Run) -> None:
    path = text_file(tmp_path)
    outcome = run("heads", "tasks", path, "--out", tmp_path / "x", "--task", "tree")
    assert_one_line(outcome, 1, "unknown task 'tree'")
    outcome = run("heads", "tasks", path, "--out", tmp_path / "x")
    assert_one_line(outcome, 1, "sentence_length: 19,998 sentences of each class are needed")
    assert not (tmp_path / "x").exists()


def test_the_command_refuses_token_ids(tmp_path: Path, run: Run) -> None:
    np.save(tmp_path / "ids.npy", np.zeros((3, 4), np.int64))
    outcome = run("heads", "tasks", tmp_path / "ids.npy", "--out", tmp_path / "x")
    assert_one_line(outcome, 1, "made of text, not of token ids")

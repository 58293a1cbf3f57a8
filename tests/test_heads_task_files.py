"""Tasks of one's own, from TSV and JSON lines."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pyengine.errors import PyengineError
from pyengine.heads.senteval_probing import write_probing
from pyengine.heads.task import (
    CLASSES,
    INNER_K_FOLD,
    K_FOLD,
    SCORES,
    SIMILARITY,
    SPLIT,
    UNSUPERVISED,
    Examples,
    Task,
)
from pyengine.heads.task_names import read_task

ROWS = [
    ("train", "pos", "a  good one", "x y"),
    ("validation", "neg", "bad", "z"),
    ("train", "neg", 'a "quote', "w"),
    ("te", "pos", "fine", "v"),
]


def tsv(path: Path, header: str, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in (header, *lines)))
    return path


def assert_equal(one: Task, other: Task) -> None:
    assert (one.name, one.kind, one.protocol) == (other.name, other.kind, other.protocol)
    assert (one.labels, one.n_scores) == (other.labels, other.n_scores)
    assert [*one.parts] == [*other.parts]
    for name, part in one.parts.items():
        assert part.first == other.parts[name].first and part.second == other.parts[name].second
        np.testing.assert_array_equal(part.targets, other.parts[name].targets)
        assert part.targets.dtype == other.parts[name].targets.dtype


def test_tsv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    table = tsv(tmp_path / "mine.tsv", "split\tlabel\ttext\ttext2", *map("\t".join, ROWS))
    names = ("partition", "label", "sentence1", "sentence2")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in ROWS]
    records = tmp_path / "mine.jsonl"
    records.write_text("\n".join(lines))
    packed = tmp_path / "mine.jsonl.gz"
    packed.write_bytes(gzip.compress(records.read_bytes()))
    task = read_task(table)
    assert (task.name, task.kind, task.protocol) == ("mine", CLASSES, SPLIT)
    assert task.labels == ("neg", "pos")
    assert task.parts["train"].first == ("a good one", 'a "quote')
    assert task.parts["train"].second == ("x y", "w")
    assert task.parts["train"].targets.tolist() == [1, 0]
    for other in (records, packed):
        assert_equal(task, read_task(other))
        assert_equal(task, read_task(str(other)))


def test_labels_that_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "numbers.jsonl"
    rows = [("train", 10), ("train", 9), ("test", 10)]
    path.write_text("\n".join(json.dumps({"split": s, "label": n, "text": "a"}) for s, n in rows))
    task = read_task(path)
    assert (task.protocol, task.labels) == (K_FOLD, ("10", "9"))
    assert task.parts["train"].targets.tolist() == [0, 1]


def test_without_a_split_all_is_cross_validated(tmp_path: Path) -> None:
    task = read_task(tsv(tmp_path / "all.tsv", "text\tlabel", "a\tx", "b\ty"))
    assert task.protocol == INNER_K_FOLD and [*task.parts] == ["all"]
    assert task.parts["all"].first == ("a", "b") and not task.paired


def test_scores(tmp_path: Path) -> None:
    lines = ("test\t1\ta\tb", "dev\t2.5\tc\td", "train\t6.2\te\tf")
    task = read_task(tsv(tmp_path / "s.tsv", "split\tscore\ttext1\ttext2", *lines))
    assert (task.kind, task.protocol, task.n_scores) == (SCORES, SPLIT, 7)
    assert [*task.parts] == ["train", "dev", "test"]
    assert task.parts["dev"].targets.tolist() == [2.5]


def test_pairs_that_are_all_for_testing(tmp_path: Path) -> None:
    path = tsv(tmp_path / "u.tsv", "split\tscore\ttext1\ttext2", "test\t0.1\ta\tb")
    assert (read_task(path).kind, read_task(path).protocol) == (SIMILARITY, UNSUPERVISED)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["split\ttext", "train\ta"], "x.tsv:2: no label or score among split, text"),
        (["label\tsplit", "A\ttrain"], "x.tsv:2: no text or text1 or sentence or sentence1"),
        (["label\ttext\tsplit", "A\ta\tx"], "x.tsv:2: the split 'x'"),
        (["label\ttext\tsplit", "A\ta"], "x.tsv:2: 2 fields between tabs, not 3"),
        (["label\ttext", "A\ta\tb"], "x.tsv:2: 3 fields, but 2 columns"),
        (["label\ttext"], "x.tsv has no examples"),
        ([""], "x.tsv has no examples"),
        (["label\ttext\tsplit", "A\ta\ttrain", "B\tb\ttest"], "x.tsv:3: the label 'B'"),
        (["label\ttext\tsplit", "A\ta\ttrain", "A\ta\tdev"], "it needs train+dev+test"),
        (["score\ttext\ttext2", "nan\ta\tb"], "x.tsv:2: the score 'nan'"),
        (["score\ttext\ttext2", "1\ta\tb"], "it needs train+dev+test"),
        (
            ["score\ttext\tsplit", "1\ta\ttrain", "0\tb\tdev", "1\tc\ttest"],
            "scores from 0 to 1; scale them",
        ),
        (
            ["score\ttext\tsplit", "3\ta\ttrain", "-1\tb\tdev", "1\tc\ttest"],
            "scores from -1 to 3; scale them",
        ),
        (["score\ttext\tsplit", "3\ta\ttest"], "it needs train+dev+test"),
    ],
)
def test_a_broken_tsv(tmp_path: Path, lines: list[str], says: str) -> None:
    with pytest.raises(PyengineError) as error:
        read_task(tsv(tmp_path / "x.tsv", *lines))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["{"], "x.jsonl:1: not JSON"),
        (["[1]"], "x.jsonl:1: a JSON object is needed, not list"),
        (['{"label": null, "text": "a"}'], "x.jsonl:1: no label or score among text"),
        (['{"label": 1, "text": "\\ud800"}'], "x.jsonl:1 holds a lone surrogate"),
        (['{"label": 1, "text": "a"}', '{"score": 1, "text": "a"}'], "mixes labels and scores"),
        (
            ['{"label": 1, "text": "a"}', '{"label": 1, "text": "a", "text2": "b"}'],
            "or pairs and sentences",
        ),
    ],
)
def test_broken_json_lines(tmp_path: Path, lines: list[str], says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(PyengineError) as error:
        read_task(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match="no such file"):
        read_task(tmp_path / "none.tsv")
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(PyengineError, match=r"x\.csv: a task is a file \.txt, \.tsv, \.jsonl"):
        read_task(tmp_path / "x.csv")


def test_probing_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    sizes = {"train": 3, "dev": 1, "test": 2}
    parts = {
        part: Examples(tuple(f"{part} {i} é" for i in range(n)), None, np.arange(n) % 2)
        for part, n in sizes.items()
    }
    task = Task("round", CLASSES, SPLIT, ("A", "B"), parts)
    write_probing(task, tmp_path / "round.txt")
    assert_equal(read_task(tmp_path / "round.txt"), task)
    assert (tmp_path / "round.txt").read_text().startswith("tr\tA\ttrain 0 é\ntr\tB\ttrain 1 é\n")


def test_only_classes_of_single_sentences_become_probing_files(tmp_path: Path) -> None:
    task = read_task(tsv(tmp_path / "all.tsv", "text\tlabel", "a\tx", "b\ty"))
    with pytest.raises(PyengineError, match="all cannot be a probing file"):
        write_probing(task, tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()

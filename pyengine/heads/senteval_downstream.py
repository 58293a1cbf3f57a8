"""SentEval's tasks of single sentences: TREC, SST, MR, CR, SUBJ, MPQA."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyengine.errors import PyengineError
from pyengine.heads.task import CLASSES, INNER_K_FOLD, K_FOLD, SPLIT, Examples, Task
from pyengine.heads.task_lines import (
    LATIN1,
    UTF8,
    Row,
    class_examples,
    filled_lines,
    find_files,
)

QUESTIONS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
# The plain files have numbers, in an order of their own.
NUMBERED_QUESTIONS = dict(zip("012345", ("DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM"), strict=True))

# Of each class a file: (label, file) from class 0 on. SentEval puts the examples of class 1 first.
TWO_FILES = {
    "MR": (("negative", "rt-polarity.neg"), ("positive", "rt-polarity.pos")),
    "CR": (("negative", "custrev.neg"), ("positive", "custrev.pos")),
    "SUBJ": (("subjective", "subj.subjective"), ("objective", "subj.objective")),
    "MPQA": (("negative", "mpqa.neg"), ("positive", "mpqa.pos")),
}

ReadLine = Callable[[str], tuple[str, str]]


def read_trec(name: str, data: str | Path | None) -> Task:
    """Read TREC's questions by coarse class: `LOC:other How far ...`, or `4 How far ...`."""
    layouts = [
        ("TREC/train_5500.label", "TREC/TREC_10.label"),
        ("train_5500.label", "TREC_10.label"),
        ("TREC.train.all", "TREC.test.all"),
        ("TREC/TREC.train.all", "TREC/TREC.test.all"),
    ]
    train, test = find_files(name, data, layouts)
    parts = {
        part: _read(path, _question, QUESTIONS, LATIN1)
        for part, path in (("train", train), ("test", test))
    }
    return Task(name, CLASSES, K_FOLD, QUESTIONS, parts)


def read_sst(name: str, data: str | Path | None) -> Task:
    """Read SST in two or five classes: `sentence TAB label`, or `label sentence`."""
    n_classes, folder = {"SST2": (2, "binary"), "SST5": (5, "fine")}[name]
    parts = ("train", "dev", "test")
    stems = (f"SST/{folder}/sentiment-", f"stsa.{folder}.", f"SST/{folder}/stsa.{folder}.")
    files = find_files(name, data, [[stem + part for part in parts] for stem in stems])
    labels = tuple(map(str, range(n_classes)))
    read = {
        part: _read(path, _review, labels, UTF8) for part, path in zip(parts, files, strict=True)
    }
    return Task(name, CLASSES, SPLIT, labels, read)


def read_two_files(name: str, data: str | Path | None) -> Task:
    """Read MR, CR, SUBJ or MPQA: of each of two classes a file, a sentence per line."""
    labels, names = zip(*TWO_FILES[name], strict=True)
    files = find_files(name, data, [[f"{name}/{file}" for file in names], names])
    rows = [
        Row(path, number, label, line)
        for label, path in zip(reversed(labels), reversed(files), strict=True)
        for number, line in filled_lines(path, LATIN1)
    ]
    return Task(name, CLASSES, INNER_K_FOLD, labels, {"all": class_examples(rows, labels)})


def _read(path: Path, read_line: ReadLine, labels: Sequence[str], encoding: str) -> Examples:
    rows = []
    for number, line in filled_lines(path, encoding):
        label, text = read_line(line)
        if not text.strip():
            raise PyengineError(f"{path}:{number}: no sentence beside the label {label!r}")
        rows.append(Row(path, number, label, text))
    return class_examples(rows, labels)


def _question(line: str) -> tuple[str, str]:
    label, _, text = line.strip().partition(" ")
    coarse = label.partition(":")[0]
    return NUMBERED_QUESTIONS.get(coarse, coarse), text


def _review(line: str) -> tuple[str, str]:
    text, tab, label = line.rpartition("\t")
    if not tab:
        label, _, text = line.strip().partition(" ")
    return label.strip(), text

"""SentEval's tasks of sentence pairs: MRPC, SICK, SNLI, STS."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyengine.errors import PyengineError
from pyengine.heads.task import CLASSES, K_FOLD, SCORES, SIMILARITY, SPLIT, UNSUPERVISED, Task
from pyengine.heads.task_lines import (
    LATIN1,
    UTF8,
    Row,
    class_examples,
    filled_lines,
    find_files,
    lines_of,
    score_examples,
    split_fields,
)

SICK_LABELS = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
SNLI_LABELS = ("entailment", "neutral", "contradiction")
SPLITS = ("train", "dev", "test")

# The data sets of each year; of 2013 one is missing, which may not be passed on.
STS = {
    "STS12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13": ("FNWN", "headlines", "OnWN"),
    "STS14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}

Rows = Callable[[Path], list[Row]]


def read_mrpc(name: str, data: str | Path | None) -> Task:
    """Read MRPC: whether two sentences say the same."""
    stem = "msr_paraphrase_"
    layouts = [
        [f"{folder}{stem}{part}.txt" for part in ("train", "test")] for folder in ("MRPC/", "")
    ]
    files = find_files(name, data, layouts)
    labels = ("0", "1")
    parts = {
        part: class_examples(_by_header(path, ("Quality",), "#1 String", "#2 String"), labels)
        for part, path in zip(("train", "test"), files, strict=True)
    }
    return Task(name, CLASSES, K_FOLD, labels, parts)


def read_sick(name: str, data: str | Path | None) -> Task:
    """Read SICK: which sentence follows from which (SICK-E), how related they are (SICK-R)."""
    stems = ("train", "trial", "test_annotated")
    layouts = [[f"{folder}SICK_{stem}.txt" for stem in stems] for folder in ("SICK/", "")]
    files = dict(zip(SPLITS, find_files(name, data, layouts), strict=True))
    if name == "SICK-R":
        columns: tuple[str, ...] = ("relatedness_score",)
    else:
        columns = ("entailment_judgment", "entailment_label")
    rows = {p: _by_header(path, columns, "sentence_A", "sentence_B") for p, path in files.items()}
    if name == "SICK-R":
        return Task(name, SCORES, SPLIT, (), {p: score_examples(rows[p]) for p in rows})
    parts = {p: class_examples(rows[p], SICK_LABELS) for p in rows}
    return Task(name, CLASSES, SPLIT, SICK_LABELS, parts)


def read_snli(name: str, data: str | Path | None) -> Task:
    """Read SNLI: of each split the files s1, s2 and labels, line by line."""
    layouts = [
        [f"{folder}{file}.{part}" for part in SPLITS for file in ("s1", "s2", "labels")]
        for folder in ("SNLI/", "")
    ]
    files = find_files(name, data, layouts)
    parts = {
        part: class_examples(_side_by_side(files[3 * i : 3 * i + 3]), SNLI_LABELS)
        for i, part in enumerate(SPLITS)
    }
    return Task(name, CLASSES, SPLIT, SNLI_LABELS, parts)


def read_sts_benchmark(name: str, data: str | Path | None) -> Task:
    """Read the STS benchmark: how similar two sentences are, from 0 to 5."""
    layouts = [
        [f"{folder}sts-{part}.csv" for part in SPLITS]
        for folder in ("STS/STSBenchmark/", "STSBenchmark/", "")
    ]
    files = find_files(name, data, layouts)
    parts = {
        part: score_examples(_benchmark_rows(path))
        for part, path in zip(SPLITS, files, strict=True)
    }
    return Task(name, SCORES, SPLIT, (), parts)


def read_sts(name: str, data: str | Path | None) -> Task:
    """Read a year of STS: data sets of pairs with scores; pairs without a score are left out."""
    names = [f"STS.{file}.{one}.txt" for one in STS[name] for file in ("input", "gs")]
    folders = (f"STS/{name}-en-test/", f"{name}-en-test/")
    files = find_files(name, data, [[folder + file for file in names] for folder in folders])
    parts = {
        one: score_examples(_scored_rows(*files[2 * i : 2 * i + 2]))
        for i, one in enumerate(STS[name])
    }
    return Task(name, SIMILARITY, UNSUPERVISED, (), parts)


def _by_header(path: Path, targets: Sequence[str], first: str, second: str) -> list[Row]:
    """Read a table with a header; `targets` are the names that the target's column may have."""
    lines = filled_lines(path)
    header = next(lines, (1, ""))[1].split("\t")
    names = [[name for name in targets if name in header] or [targets[0]], [first], [second]]
    columns = [_column(path, header, name) for name, *_ in names]
    rows = []
    for number, line in lines:
        fields = split_fields(path, number, line, max(columns) + 1)
        target, one, two = (fields[column] for column in columns)
        rows.append(Row(path, number, target.strip(), one, two))
    return rows


def _column(path: Path, header: list[str], name: str) -> int:
    if name not in header:
        raise PyengineError(f"{path}: no column {name!r} in its header {header}")
    return header.index(name)


def _benchmark_rows(path: Path) -> list[Row]:
    rows = []
    for number, line in filled_lines(path):
        score, first, second = split_fields(path, number, line, 7)[4:7]
        rows.append(Row(path, number, score, first, second))
    return rows


def _scored_rows(pairs: Path, gold: Path) -> list[Row]:
    rows = []
    for number, (pair, score) in _together([pairs, gold], UTF8):
        if score.strip():
            first, second = split_fields(pairs, number, pair, 2)[:2]
            rows.append(Row(gold, number, score, first, second))
    return rows


def _side_by_side(paths: Sequence[Path]) -> list[Row]:
    lines = _together(paths, LATIN1)
    return [Row(paths[2], number, label.strip(), one, two) for number, (one, two, label) in lines]


def _together(paths: Sequence[Path], encoding: str) -> list[tuple[int, tuple[str, ...]]]:
    """Read files whose lines belong together; blank lines count, but for those after the last."""
    lines = [[line for _, line in lines_of(path, encoding)] for path in paths]
    longest = max(_filled(one) for one in lines)
    for path, one in zip(paths, lines, strict=True):
        if len(one) < longest:
            raise PyengineError(
                f"{path} has {len(one)} lines, the file beside it {longest}: they belong together"
            )
    return list(enumerate(zip(*(one[:longest] for one in lines), strict=True), 1))


def _filled(lines: Sequence[str]) -> int:
    """Return the number of lines up to the last that is not blank."""
    return max((i for i, line in enumerate(lines, 1) if line.strip()), default=0)

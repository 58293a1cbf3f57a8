"""SentEval's ten probing tasks (Conneau et al. 2018), and files of their format."""

from collections.abc import Iterable
from pathlib import Path

from pyengine.errors import PyengineError
from pyengine.files import atomic_write_text
from pyengine.heads.task import CLASSES, SPLIT, Task
from pyengine.heads.task_lines import Row, class_examples, filled_lines, find_files, split_fields

# What SentEval calls each task: its file without `.txt`, and what the paper calls it.
PROBING = {
    "Length": ("sentence_length", "SentLen"),
    "WordContent": ("word_content", "WC"),
    "Depth": ("tree_depth", "TreeDepth"),
    "TopConstituents": ("top_constituents", "TopConst"),
    "BigramShift": ("bigram_shift", "BShift"),
    "Tense": ("past_present", "Tense"),
    "SubjNumber": ("subj_number", "SubjNum"),
    "ObjNumber": ("obj_number", "ObjNum"),
    "OddManOut": ("odd_man_out", "SOMO"),
    "CoordinationInversion": ("coordination_inversion", "CoordInv"),
}
PARTITIONS = {"tr": "train", "va": "dev", "te": "test"}


def read_senteval_probing(name: str, data: str | Path | None) -> Task:
    """Read one of the ten, by SentEval's name for it."""
    (path,) = find_files(name, data, [(f"{PROBING[name][0]}.txt",)], folder="probing")
    return read_probing(path, name)


def read_probing(path: Path, name: str) -> Task:
    """Read a probing file: each line is tr, va or te, TAB, a label, TAB, a sentence.

    Fields between the label and the sentence are passed over. Classes are numbered in the order of
    train's labels sorted as strings.

    Raises:
        PyengineError: for a line of another form, a partition without lines, or a label that train
            does not have.
    """
    parts: dict[str, list[Row]] = {part: [] for part in PARTITIONS.values()}
    for number, line in filled_lines(path):
        partition, label, *_, sentence = split_fields(path, number, line, 3)
        if partition not in PARTITIONS:
            known = ", ".join(PARTITIONS)
            raise PyengineError(f"{path}:{number}: the partition {partition!r} is none of {known}")
        parts[PARTITIONS[partition]].append(Row(path, number, label, sentence))
    labels = sorted_labels(parts["train"])
    examples = {part: class_examples(rows, labels) for part, rows in parts.items()}
    return Task(name, CLASSES, SPLIT, labels, examples)


def write_probing(task: Task, path: str | Path) -> None:
    """Write a task of one sentence per example and given splits as a probing file.

    Raises:
        PyengineError: for another kind of task, or if the file cannot be written.
    """
    if task.kind != CLASSES or task.protocol != SPLIT or task.paired:
        raise PyengineError(
            f"the task {task.name} cannot be a probing file: it needs classes of single sentences, "
            "split into train, dev and test"
        )
    lines = [
        f"{partition}\t{task.labels[target]}\t{text}\n"
        for partition, part in PARTITIONS.items()
        for text, target in zip(task.parts[part].first, task.parts[part].targets, strict=True)
    ]
    atomic_write_text(path, "".join(lines))


def sorted_labels(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the labels that occur, sorted as strings."""
    return tuple(sorted({row.target for row in rows}))

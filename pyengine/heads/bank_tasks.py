"""Tasks as a bank keeps them: examples are indices of sentences, each distinct text kept once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pyengine.errors import PyengineError
from pyengine.heads.task import CLASSES, Examples, Task

EMPTY = "."  # what SentEval puts in the place of a sentence without words

TASKS = pa.schema(
    [
        ("task", pa.string()),
        ("kind", pa.string()),
        ("protocol", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("n_scores", pa.int32()),
        ("parts", pa.list_(pa.struct([("part", pa.string()), ("n", pa.int64())]))),
    ]
)
EXAMPLES = pa.schema(
    [
        ("task", pa.string()),
        ("part", pa.string()),
        ("first", pa.int64()),
        ("second", pa.int64()),
        ("label", pa.int64()),
        ("score", pa.float64()),
    ]
)


@dataclass(frozen=True, eq=False)
class BankExamples:
    """Some examples of a task, in SentEval's order.

    Attributes:
        rows: int64 [n, 1], or [n, 2] of pairs: indices of sentences.
        targets: int64 [n], indices of classes, or float64 [n], scores.
    """

    rows: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class BankTask:
    """A task over the sentences of a bank.

    Attributes:
        name, kind, protocol, labels, n_scores: as `pyengine.heads.task.Task` has them.
        parts: by name, in the task's order.
    """

    name: str
    kind: str
    protocol: str
    labels: tuple[str, ...]
    n_scores: int
    parts: dict[str, BankExamples]

    @property
    def n_classes(self) -> int:
        return len(self.labels)

    @property
    def paired(self) -> bool:
        return any(part.rows.shape[1] == 2 for part in self.parts.values())

    def __len__(self) -> int:
        """Return the number of examples of all parts."""
        return sum(map(len, self.parts.values()))


def indexed(tasks: Sequence[Task]) -> tuple[list[str], dict[str, BankTask]]:
    """Number the distinct sentences of some tasks, in the order in which they first appear.

    Returns:
        The sentences, an empty one as `EMPTY`; the tasks, with each part in SentEval's order.

    Raises:
        PyengineError: if there is no task, or two have one name.
    """
    if not tasks:
        raise PyengineError("no tasks are given: there are no sentences to read")
    numbers: dict[str, int] = {}
    found: dict[str, BankTask] = {}
    for task in tasks:
        if task.name in found:
            raise PyengineError(f"two tasks are called {task.name}; rename one, or leave it out")
        parts = {name: _indexed(task.in_order(name), numbers) for name in task.parts}
        what = (task.name, task.kind, task.protocol, tuple(task.labels), task.n_scores)
        found[task.name] = BankTask(*what, parts)
    return [*numbers], found


def _indexed(part: Examples, numbers: dict[str, int]) -> BankExamples:
    sides = [part.first] if part.second is None else [part.first, part.second]
    columns = [
        [numbers.setdefault(text if text.strip() else EMPTY, len(numbers)) for text in side]
        for side in sides
    ]
    return BankExamples(np.array(columns, np.int64).T.copy(), part.targets)


def task_tables(tasks: dict[str, BankTask]) -> tuple[pa.Table, pa.Table]:
    """Lay tasks out as tables: a row per task (`TASKS`), and a row per example (`EXAMPLES`)."""
    rows = [
        {
            "task": task.name,
            "kind": task.kind,
            "protocol": task.protocol,
            "labels": list(task.labels),
            "n_scores": task.n_scores,
            "parts": [{"part": name, "n": len(part)} for name, part in task.parts.items()],
        }
        for task in tasks.values()
    ]
    parts = [_part_table(task, name) for task in tasks.values() for name in task.parts]
    return pa.Table.from_pylist(rows, TASKS), pa.concat_tables(parts)


def _part_table(task: BankTask, name: str) -> pa.Table:
    part = task.parts[name]
    n, classes = len(part), task.kind == CLASSES
    none = pa.nulls(n)
    columns = {
        "task": pa.array([task.name] * n),
        "part": pa.array([name] * n),
        "first": part.rows[:, 0],
        "second": part.rows[:, 1] if part.rows.shape[1] == 2 else none,
        "label": part.targets if classes else none,
        "score": none if classes else part.targets,
    }
    return pa.table(columns).cast(EXAMPLES)


def read_tasks(tasks: pa.Table, examples: pa.Table) -> dict[str, BankTask]:
    """Read what `task_tables` laid out."""
    found, at = {}, 0
    for row in tasks.to_pylist():
        parts = {}
        for part in row["parts"]:
            parts[part["part"]] = _read_part(row["kind"], examples.slice(at, part["n"]))
            at += part["n"]
        what = (row["task"], row["kind"], row["protocol"], tuple(row["labels"]), row["n_scores"])
        found[row["task"]] = BankTask(*what, parts)
    return found


def _read_part(kind: str, table: pa.Table) -> BankExamples:
    columns = ["first"] if table["second"].null_count == len(table) else ["first", "second"]
    rows = np.stack([table[name].to_numpy() for name in columns], axis=1)
    return BankExamples(rows, table["label" if kind == CLASSES else "score"].to_numpy())

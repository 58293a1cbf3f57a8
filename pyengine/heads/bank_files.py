"""The files of a bank: what its sentences and tasks are, and the vectors block by block."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa

from pyengine.analyses.agreement_result import read_table, write_table
from pyengine.files import second_name
from pyengine.heads.bank_tasks import BankTask, read_tasks, task_tables

SENTENCES_FILE, TASKS_FILE, EXAMPLES_FILE = "sentences.parquet", "tasks.parquet", "examples.parquet"
TABLES = (SENTENCES_FILE, TASKS_FILE, EXAMPLES_FILE)
FOLDER, VECTORS = "vectors", "safetensors"

SENTENCES = pa.schema(
    [
        ("sentence", pa.int64()),
        ("text", pa.string()),
        ("n_tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)


def write_tables(folder: Path, sentences: pa.Table, tasks: dict[str, BankTask]) -> None:
    """Write what does not depend on the model's weights, where it is not there yet."""
    of_tasks, examples = task_tables(tasks)
    for name, table in zip(TABLES, (sentences, of_tasks, examples), strict=True):
        if not (folder / name).exists():
            write_table(table, folder / name)


def copy_tables(source: Path, target: Path) -> None:
    """Copy the same files from one run directory to another."""
    for name in TABLES:
        if not (target / name).exists():
            second_name(source / name, target / name)


def read_sentences(folder: Path) -> pa.Table:
    """Read the sentences of a run directory, as `SENTENCES` has them.

    Raises:
        PyengineError: if the file is damaged.
    """
    return read_table(folder / SENTENCES_FILE)


def read_bank_tasks(folder: Path) -> dict[str, BankTask]:
    """Read the tasks of a run directory.

    Raises:
        PyengineError: if a file is damaged.
    """
    return read_tasks(read_table(folder / TASKS_FILE), read_table(folder / EXAMPLES_FILE))


def content_hash(texts: list[str], tasks: dict[str, BankTask]) -> str:
    """Return the SHA-256 of sentences, and of tasks over them."""
    digest = hashlib.sha256(json.dumps(texts).encode())
    for task in tasks.values():
        shapes = [[name, *part.rows.shape] for name, part in task.parts.items()]
        what = [task.name, task.kind, task.protocol, task.labels, task.n_scores, shapes]
        digest.update(json.dumps(what).encode())
        for part in task.parts.values():
            digest.update(part.rows.tobytes())
            digest.update(part.targets.tobytes())
    return digest.hexdigest()

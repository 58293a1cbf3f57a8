"""A bank drawn by chance, and tasks, that the tests of probes over a bank share."""

from pathlib import Path

import numpy as np
from heads_helpers import bank_of, random_sentence, sentences_of, split_task

from pyengine.heads.bank import HeadBank
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.heads.results_table import PROBES
from pyengine.heads.task import Examples, Task

QUICK = ProbeSettings(regularisers=(1e-4, 1e-2), max_epochs=6, folds=3)
N_LAYERS, N_HEADS, D = 2, 3, 4


def two_tasks() -> list[Task]:
    return [split_task("three", (40, 20, 20), 3), split_task("two", (30, 16, 16), 2, seed=1)]


def bank_for(tasks: list[Task], folder: Path | None = None) -> HeadBank:
    """Return a bank of two layers of three heads, and of their blocks, drawn by chance."""
    n, rng = len(sentences_of(tasks)), np.random.default_rng(0)
    arrays: dict[tuple[str, int], np.ndarray] = {}
    for layer in range(N_LAYERS):
        arrays["head", layer] = rng.normal(size=(n, N_HEADS, D))
        arrays["block", layer] = rng.normal(size=(n, 1, 6))
    return bank_of(arrays, tasks, folder)


def table_bytes(folder: Path) -> bytes:
    return (folder / PROBES.name).read_bytes()


def pairs_task(name: str, kind: str, protocol: str, parts: dict[str, int]) -> Task:
    rng = np.random.default_rng(3)
    made = {}
    for part, n in parts.items():
        first, second = (tuple(random_sentence(rng) for _ in range(n)) for _ in range(2))
        made[part] = Examples(first, second, rng.uniform(1, 5, n).round(1))
    return Task(name, kind, protocol, (), made)

"""Control tasks (Hewitt & Liang 2019): what a probe learns by heart."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from pyengine.heads.bank_tasks import BankExamples


def control_targets(
    parts: Mapping[str, BankExamples], texts: Sequence[str], n_classes: int, seed: int
) -> dict[str, np.ndarray]:
    """Return the labels of the control task: a random class for every type of first word.

    A type (of a pair: the two first words) has one class wherever it occurs, drawn from the
    distribution of the classes in train, so that the task can be learnt by heart and then holds in
    dev and test, but says nothing about language. Selectivity is the accuracy on test minus the
    accuracy there of the same probe on this task. It depends on the number of types: where
    sentences begin with few words, the control task is easy.

    Args:
        parts: of the task, of classes.
        texts: of the bank's sentences.
        n_classes: in all.
        seed: of the draws, which depend on nothing else than it and the type.

    Returns:
        int64 [n] for every part.
    """
    first = parts["train"] if "train" in parts else next(iter(parts.values()))
    shares = np.bincount(first.targets, minlength=n_classes) / len(first)
    ends = np.cumsum(shares)
    words = [text.split()[0] for text in texts]
    # The last class that occurs ends at 1, whatever the sum was rounded to.
    ends[np.flatnonzero(shares)[-1] :] = 1
    drawn: dict[str, int] = {}

    def label(rows: np.ndarray) -> int:
        kind = " ".join(words[row] for row in rows)
        if kind not in drawn:
            drawn[kind] = int(np.searchsorted(ends, _uniform(kind, seed), side="right"))
        return drawn[kind]

    return {
        name: np.array([label(rows) for rows in part.rows], np.int64)
        for name, part in parts.items()
    }


def _uniform(kind: str, seed: int) -> float:
    """Return a number in [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{seed}\t{kind}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)

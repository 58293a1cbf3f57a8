"""A task: sentences, or pairs of them, with what is to be told from their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyengine.errors import PyengineError

# What is told: one of several classes; a score, by a trained regression; a score, by the cosine of
# the two vectors alone.
CLASSES, SCORES, SIMILARITY = "classes", "scores", "similarity"

SNLI = "SNLI"  # whose examples SentEval orders in another way

# How the examples are used, as SentEval does for each task: given train, dev and test; train and
# test, the regulariser chosen by cross-validation on train; all by nested cross-validation; nothing
# to train on.
SPLIT, K_FOLD, INNER_K_FOLD, UNSUPERVISED = "split", "k_fold", "inner_k_fold", "unsupervised"
PARTS = {
    SPLIT: ("train", "dev", "test"),
    K_FOLD: ("train", "test"),
    INNER_K_FOLD: ("all",),
}


@dataclass(frozen=True, eq=False)
class Examples:
    """Some examples of a task, in order.

    Attributes:
        first: the sentences, tokens with spaces between them as the task's files have them.
        second: of pairs the second sentence of each; None where there are none.
        targets: int64 [n], indices of classes, or float64 [n], scores.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    targets: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(self.first), len(self.targets)}
        if self.second is not None:
            lengths.add(len(self.second))
        if len(lengths) > 1:
            raise PyengineError(f"sentences and targets differ in number: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.first)

    def in_order(self) -> "Examples":
        """Return them as SentEval orders them: by words of the sentences, then by target.

        The order decides the minibatches, so that a probe repeats SentEval's only in this one.
        """
        return self._ordered([self.targets, *reversed(self._words())])

    def in_order_of_snli(self, labels: Sequence[str]) -> "Examples":
        """Return pairs as SentEval orders SNLI's: words of the second, of the first, then label.

        Labels compare as strings there, not as the numbers they have.
        """
        return self._ordered([np.array(labels)[self.targets], *self._words()])

    def _words(self) -> list[np.ndarray]:
        """Count the words of each side."""
        sides = [self.first] if self.second is None else [self.first, self.second]
        return [np.array([len(text.split()) for text in side]) for side in sides]

    def _ordered(self, keys: Sequence[np.ndarray]) -> "Examples":
        """Sort by keys, the last one first; what is equal stays as it was."""
        order = np.lexsort(keys)
        return Examples(
            _taken(self.first, order),
            None if self.second is None else _taken(self.second, order),
            self.targets[order],
        )


@dataclass(frozen=True, eq=False)
class Task:
    """A task as it was read.

    Attributes:
        name: what results call it.
        kind: `classes`, `scores` or `similarity`.
        protocol: `split`, `k_fold`, `inner_k_fold` or `unsupervised`.
        labels: names of the classes, in the order of their indices; empty where there are scores.
        parts: by name: `train`, `dev`, `test`; `train`, `test`; `all`; or, of an unsupervised task,
            one for each of its data sets. In SentEval's order.
        n_scores: of `scores`, the highest score: SentEval's soft labels are over 1 … n_scores.
    """

    name: str
    kind: str
    protocol: str
    labels: tuple[str, ...]
    parts: dict[str, Examples]
    n_scores: int = 5

    def __post_init__(self) -> None:
        wanted = PARTS.get(self.protocol, tuple(self.parts))
        for part in wanted:
            if not len(self.parts.get(part, ())):
                raise PyengineError(f"the task {self.name} has no {part} examples")

    @property
    def paired(self) -> bool:
        return any(part.second is not None for part in self.parts.values())

    @property
    def n_classes(self) -> int:
        return len(self.labels)

    def in_order(self, part: str) -> Examples:
        """Return a part as SentEval orders it."""
        examples = self.parts[part]
        if self.name == SNLI and self.kind == CLASSES and self.paired:
            return examples.in_order_of_snli(self.labels)
        return examples.in_order()


def labelled(names: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
    """Turn names of classes into indices among `labels`, int64.

    Raises:
        PyengineError: for a class that is not among them.
    """
    index = {label: i for i, label in enumerate(labels)}
    for name in names:
        if name not in index:
            raise PyengineError(f"the label {name!r} is not among those of train: {[*labels][:20]}")
    return np.array([index[name] for name in names], np.int64)


def _taken(texts: Sequence[str], order: np.ndarray) -> tuple[str, ...]:
    return tuple(texts[i] for i in order)

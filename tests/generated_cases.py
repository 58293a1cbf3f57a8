"""A corpus to make probing tasks of, and what is true of each."""

import random
from collections import Counter

from pyengine.heads.task import CLASSES, SPLIT, Task

COMMON = ("the", "a", "of", "and", "ran", "saw")
RARE = ("harbour", "kitchen", "letter", "window", "garden", "candle")
SIZES = {"n_train": 60, "n_dev": 12, "n_test": 12}


def corpus(n: int = 900) -> list[str]:
    """Sentences of 3 to 31 words; a rare word in most of them, commas and quotes in some."""
    draw = random.Random(5)
    found = []
    for i in range(n):
        words = draw.choices(COMMON, k=2 + i % 29)
        words[0] = words[0].capitalize()
        words[draw.randrange(len(words))] = draw.choice(RARE)
        if i % 5 == 0:
            words.insert(len(words) // 2, ",")
        if i % 7 == 0:
            words.insert(1, '"')
        found.append(" ".join([*words, "."]))
    return found


def every(task: Task) -> list[tuple[str, str]]:
    return [
        (task.labels[target], text)
        for part in task.parts.values()
        for text, target in zip(part.first, part.targets, strict=True)
    ]


def assert_balanced(task: Task, n_classes: int) -> None:
    assert (task.kind, task.protocol, task.n_classes) == (CLASSES, SPLIT, n_classes)
    assert list(task.labels) == sorted(task.labels)
    for name, size in (("train", 60), ("dev", 12), ("test", 12)):
        counts = Counter(task.parts[name].targets.tolist())
        assert counts == dict.fromkeys(range(n_classes), size // n_classes)
    texts = [text for _, text in every(task)]
    assert len(set(texts)) == len(texts) == 84

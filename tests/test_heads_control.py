"""Control tasks, baselines and collapsed probes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from heads_helpers import bank_of, sentences_of

from pyengine.heads.bank_tasks import BankExamples, BankTask
from pyengine.heads.baselines import chance, collapsed, majority, rounded
from pyengine.heads.control import control_targets
from pyengine.heads.probe_heads import probe_heads
from pyengine.heads.task import CLASSES, INNER_K_FOLD, SCORES, SPLIT, Examples, Task

WORDS = [f"w{i}" for i in range(12)]


def word_task(n: int = 240) -> Task:
    """A task whose class has nothing to do with the first word; all sentences differ."""
    texts = [f"{WORDS[i % len(WORDS)]} {'x' * (1 + i // len(WORDS))}" for i in range(n)]
    classes = np.random.default_rng(0).permutation(np.arange(n) % 3)
    ends = {"train": (0, n // 2), "dev": (n // 2, 3 * n // 4), "test": (3 * n // 4, n)}
    parts = {
        name: Examples(tuple(texts[slice(*at)]), None, classes[slice(*at)])
        for name, at in ends.items()
    }
    return Task("words", CLASSES, SPLIT, ("a", "b", "c"), parts)


def examples(targets: list[int], rows: list[list[int]] | None = None) -> BankExamples:
    given = [[i] for i in range(len(targets))] if rows is None else rows
    return BankExamples(np.array(given), np.array(targets))


def test_a_type_of_first_word_has_one_label_wherever_it_occurs() -> None:
    texts = ["the cat", "a dog", "the end", "a cat", "one more", "the the"]
    parts = {"train": examples([0, 1, 1]), "test": examples([0, 0, 0], [[3], [4], [5]])}
    found = control_targets(parts, texts, 2, seed=4)
    assert found["train"][0] == found["train"][2] == found["test"][2]
    assert found["train"][1] == found["test"][0]


def test_labels_depend_on_seed_and_type_alone() -> None:
    texts = [f"{word} end" for word in WORDS]
    parts = {"train": examples([0, 1, 2] * 4)}
    one = control_targets(parts, texts, 3, seed=1)["train"]
    order = np.random.default_rng(0).permutation(len(texts))
    moved = control_targets(parts, [texts[i] for i in order], 3, seed=1)["train"]
    assert moved.tolist() == one[order].tolist()
    assert control_targets(parts, texts, 3, seed=2)["train"].tolist() != one.tolist()


def test_labels_are_drawn_as_often_as_in_train() -> None:
    n = 3000
    texts = [f"word{i}" for i in range(n)]
    shares = {0: 0.6, 2: 0.3, 3: 0.1}  # and no class 1
    targets = [cls for cls, share in shares.items() for _ in range(round(share * n))]
    drawn = Counter(control_targets({"train": examples(targets)}, texts, 5, 0)["train"].tolist())
    assert set(drawn) == set(shares)
    for cls, share in shares.items():
        assert abs(drawn[cls] / n - share) < 5 * np.sqrt(share * (1 - share) / n)


def test_the_type_of_a_pair_is_both_first_words() -> None:
    texts = [f"{word} end" for word in WORDS]
    rows = [[i, j] for i in range(6) for j in range(6)]
    parts = {"all": examples([0, 1] * 18, rows)}
    found = control_targets(parts, texts, 2, 0)["all"].reshape(6, 6)
    assert any(len(set(line)) > 1 for line in found.tolist())
    assert any(len(set(line)) > 1 for line in found.T.tolist())


def test_selectivity_tells_knowledge_from_learning_by_heart(tmp_path: Path) -> None:
    task = word_task()
    texts = sentences_of([task])
    classes = dict(
        zip(
            (text for part in task.parts.values() for text in part.first),
            np.concatenate([part.targets for part in task.parts.values()]).tolist(),
            strict=True,
        )
    )
    x = np.zeros((len(texts), 2, len(WORDS)))
    for i, text in enumerate(texts):
        x[i, 0, classes[text]] = 1  # knows the class
        x[i, 1, WORDS.index(text.split()[0])] = 1  # knows the first word
    bank = bank_of({("head", 0): x}, [task])
    found = probe_heads(bank, out=tmp_path, probe="ridge", control=True)
    test, control = (found.scores("words", part=part)[0] for part in ("test", "control"))
    assert test[0] == control[1] == 100
    assert control[0] < 70 and test[1] < 70
    selectivity = found.scores("words", part="selectivity")[0]
    np.testing.assert_array_equal(selectivity, np.round(test - control, 2))


def bank_task(kind: str, protocol: str, parts: dict[str, BankExamples]) -> BankTask:
    return BankTask("t", kind, protocol, ("a", "b", "c"), 5, parts)


def test_the_majority_is_that_of_train_counted_on_test() -> None:
    parts = {"train": examples([0, 2, 2]), "dev": examples([0]), "test": examples([2, 0, 0])}
    assert majority(bank_task(CLASSES, SPLIT, parts)) == 33.33
    tie = parts | {"train": examples([2, 0])}
    assert majority(bank_task(CLASSES, SPLIT, tie)) == 66.67
    assert majority(bank_task(CLASSES, INNER_K_FOLD, {"all": examples([1, 1, 0])})) == 66.67
    assert chance(bank_task(CLASSES, SPLIT, parts)) == 33.33


def test_scores_have_no_majority_and_no_chance() -> None:
    task = bank_task(SCORES, SPLIT, {"train": examples([1]), "test": examples([1])})
    assert np.isnan(majority(task)) and np.isnan(chance(task))


def test_a_probe_has_collapsed_if_it_says_one_thing_or_scores_the_majority() -> None:
    predictions = np.array([[0, 0, 0], [0, 1, 1], [0, 2, 2]])
    found = collapsed(predictions, np.array([20.0, 33.33, 40.0]), 33.33)
    assert found.tolist() == [True, True, False]
    scores = np.array([[0.1, 0.1, np.nan], [0.1, 0.2, np.nan]])
    assert collapsed(scores, np.zeros(3), np.nan).tolist() == [True, False, True]


@pytest.mark.parametrize("hits, n", [(1, 8), (5, 16), (1147, 1725), (449, 500)])
def test_percents_are_rounded_as_python_rounds(hits: int, n: int) -> None:
    assert rounded(np.float64(hits / n)) == round(100 * (hits / n), 2)

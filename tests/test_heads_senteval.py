"""What SentEval does otherwise for single tasks: SNLI; WordContent with an MLP."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from heads_helpers import bank_of, random_sentence, sentences_of, split_task
from senteval_files import put

from benchmarks._heads_procedure import split
from pyengine.heads.bank_tasks import indexed
from pyengine.heads.probe.protocols import probe_classes
from pyengine.heads.probe_heads import probe_heads
from pyengine.heads.probe_settings import SENTEVAL, ProbeSettings
from pyengine.heads.task import Task
from pyengine.heads.task_names import read_task

LABELS = ("entailment", "neutral", "contradiction")  # as SentEval numbers them
SIZES = {"train": 150, "dev": 40, "test": 41}


def snli(folder: Path) -> Task:
    """Write SNLI's nine files and read them."""
    rng, files = np.random.default_rng(5), {}
    for part, n in SIZES.items():
        for side in ("s1", "s2"):
            files[f"SNLI/{side}.{part}"] = "\n".join(random_sentence(rng, 3) for _ in range(n))
        files[f"SNLI/labels.{part}"] = "\n".join(rng.choice(LABELS, n))
    return read_task("SNLI", put(folder, files))


def test_snli_is_sorted_by_the_second_sentence_and_the_name_of_the_label(tmp_path: Path) -> None:
    task = snli(tmp_path)
    texts, tasks = indexed([task])
    for part in SIZES:
        own, found = task.parts[part], tasks["SNLI"].parts[part]
        assert own.second is not None
        labels = [LABELS[target] for target in own.targets]
        triples = zip(own.second, own.first, labels, strict=True)
        wanted = sorted(triples, key=lambda z: (len(z[0].split()), len(z[1].split()), z[2]))
        kept = [
            (texts[second], texts[first], LABELS[target])
            for (first, second), target in zip(found.rows, found.targets, strict=True)
        ]
        assert kept == wanted
        assert {*found.targets} == {0, 1, 2}


def test_snli_is_probed_on_both_sentences_for_a_few_epochs_with_one_regulariser(
    tmp_path: Path,
) -> None:
    tasks = [snli(tmp_path / "data")]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(len(sentences_of(tasks)), 3, 4)).astype(np.float32)
    bank = bank_of({("head", 0): x}, tasks)
    examples = bank.task("SNLI").parts
    settings = replace(SENTEVAL, regularisers=(1e-9,), epoch_size=1, max_epochs=15, seed=9)
    found = probe_heads(bank, out=tmp_path / "out", settings=SENTEVAL, seeds=(9,))
    assert found.table.num_rows == 3
    for row in found.table.to_pylist():
        own = {}
        for name, part in examples.items():
            u, v = (x[part.rows[:, side], row["head"]] for side in (0, 1))
            own[name] = np.hstack([u, v, u * v, np.abs(u - v)]), part.targets.copy()
        wanted = split(own["train"], own["dev"], own["test"], 3, settings)
        assert (row["regulariser"], row["dev"], row["test"]) == wanted
        assert 1 <= row["epochs"] <= 16


def test_word_content_is_probed_without_a_hidden_layer(tmp_path: Path) -> None:
    tasks = [split_task(name, (60, 20, 20), 3) for name in ("WordContent", "Length")]
    x = np.random.default_rng(2).normal(size=(len(sentences_of(tasks)), 2, 5)).astype(np.float32)
    bank = bank_of({("head", 0): x}, tasks)
    settings = ProbeSettings(hidden=4, max_epochs=8)
    found = probe_heads(bank, out=tmp_path, probe="mlp", settings=settings)
    for name, hidden in (("WordContent", 0), ("Length", 4)):
        part = {key: (one.rows, one.targets) for key, one in bank.task(name).parts.items()}
        alone = probe_classes(x, part, 3, "split", ProbeSettings(hidden=hidden, max_epochs=8))
        assert found.scores(name).tolist() == [alone.dev.tolist()]
        assert found.scores(name, part="test").tolist() == [alone.test.tolist()]
        assert found.scores(name, part="epochs").tolist() == [alone.epochs.tolist()]
        assert (alone.weights is None) == bool(hidden)

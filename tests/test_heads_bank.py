"""Banks: what is kept of tasks, and how vectors are read."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from heads_helpers import SMALL, bank_of, damage, extracted, sentences_of, split_task, task, tiny

from pyengine import PyengineError, open_run
from pyengine.export import export
from pyengine.heads.task import (
    CLASSES,
    SCORES,
    SIMILARITY,
    SPLIT,
    UNSUPERVISED,
    Examples,
    Task,
)


def arrays_for(tasks: list[Task]) -> dict[tuple[str, int], np.ndarray]:
    rng, n = np.random.default_rng(0), len(sentences_of(tasks))
    shapes = {("head", 0): (4, 5), ("head", 1): (4, 5), ("block", 1): (1, 20)}
    return {at: rng.normal(size=(n, *shape)).astype(np.float32) for at, shape in shapes.items()}


def test_equal_sentences_are_kept_once_across_tasks_and_parts() -> None:
    parts = {
        "train": Examples(("w1 w2", "w3", "w1 w2"), None, np.array([0, 1, 1])),
        "dev": Examples(("w3",), None, np.array([0])),
        "test": Examples(("w4 w5 w6", ""), None, np.array([0, 1])),
    }
    tasks = [
        Task("A", CLASSES, SPLIT, ("x", "y"), parts),
        task("B", ["w9", "w3"], ["w1 w2", "w4 w5 w6"], targets=np.array([1, 0])),
    ]
    assert sentences_of(tasks) == ["w3", "w1 w2", ".", "w4 w5 w6", "w9"]
    bank = bank_of(arrays_for(tasks), tasks)
    assert bank.texts() == sentences_of(tasks) and bank.n_sentences == 5
    found = bank.tasks["A"].parts
    # In SentEval's order: by words, then by target.
    assert found["train"].rows.tolist() == [[0], [1], [1]]
    assert found["train"].targets.tolist() == [1, 0, 1]
    assert found["dev"].rows.tolist() == [[0]]
    assert found["test"].rows.tolist() == [[2], [3]] and found["test"].targets.tolist() == [1, 0]
    assert bank.tasks["B"].parts["all"].rows.tolist() == [[4, 1], [0, 3]]


def test_tasks_of_every_kind_come_back_as_they_were() -> None:
    scores = np.array([1.5, 4.25])
    tasks = [
        split_task("classes", (6, 2, 2), 3),
        task("pairs", ["w1", "w2"], ["w2", "w1 w3"]),
        task("scores", ["a", "b"], ["c", "d"], kind=SCORES, labels=(), targets=scores, n_scores=7),
        Task(
            "STS12",
            SIMILARITY,
            UNSUPERVISED,
            (),
            {
                name: Examples(("a", "b"), ("c", "e"), scores)
                for name in ("MSRvid", "SMTeuroparl", "OnWN")
            },
        ),
    ]
    bank = bank_of(arrays_for(tasks), tasks)
    texts = bank.texts()
    assert [*bank.tasks] == [task.name for task in tasks]
    for given in tasks:
        found = bank.task(given.name)
        for name in ("kind", "protocol", "labels", "n_scores", "n_classes", "paired"):
            assert getattr(found, name) == getattr(given, name)
        assert [*found.parts] == [*given.parts]
        for part, examples in given.parts.items():
            ordered, kept = examples.in_order(), found.parts[part]
            assert len(kept) == len(examples)
            assert kept.targets.dtype == (np.int64 if given.kind == CLASSES else np.float64)
            assert kept.targets.tolist() == ordered.targets.tolist()
            assert kept.rows.dtype == np.int64
            assert [texts[row] for row in kept.rows[:, 0]] == [*ordered.first]
            if ordered.second is not None:
                assert [texts[row] for row in kept.rows[:, 1]] == [*ordered.second]


def test_vectors_come_back_place_by_place() -> None:
    tasks = [split_task("A", (20, 5, 5))]
    arrays = arrays_for(tasks)
    bank = bank_of(arrays, tasks)
    for (location, layer), array in arrays.items():
        found = bank.vectors(location, layer)
        assert found.dtype == np.float32 and np.array_equal(found, array)
        place = bank.place(location, layer)
        assert (place.n_parts, place.width) == (array.shape[1], 20)
        assert place.name == f"{location}.{layer}"
    assert [place.name for place in bank.places] == ["head.0", "head.1", "block.1"]


def test_the_vectors_of_some_sentences(tmp_path: Path) -> None:
    bank = extracted(tmp_path / "run")
    whole = bank.vectors("head", 1)
    assert len(bank.files) > 1
    everyone, last = np.arange(bank.n_sentences), bank.n_sentences - 1
    for some in (everyone[::3], everyone[:1], np.array([2, last]), everyone[:0], everyone):
        assert np.array_equal(bank.vectors("head", 1, some), whole[some])


def test_what_the_bank_lacks_is_named() -> None:
    tasks = [split_task("A", (20, 5, 5))]
    bank = bank_of(arrays_for(tasks), tasks)
    with pytest.raises(PyengineError, match="no location 'ffn'; it has: head, block"):
        bank.vectors("ffn", 0)
    with pytest.raises(PyengineError, match="no layer 0 of 'block'; it has: 1"):
        bank.vectors("block", 0)
    with pytest.raises(PyengineError, match="no task 'B'; it has: A"):
        bank.task("B")


def test_two_tasks_of_one_name_and_none_are_refused() -> None:
    with pytest.raises(PyengineError, match="two tasks are called A"):
        sentences_of([split_task("A", (4, 2, 2)), split_task("A", (4, 2, 2), seed=1)])
    with pytest.raises(PyengineError, match="no tasks are given"):
        sentences_of([])


def test_the_fingerprint_is_of_what_decides_the_bank(tmp_path: Path) -> None:
    tasks = [split_task("A", (20, 5, 5))]
    one = extracted(tmp_path / "one", tasks=tasks)
    again = extracted(tmp_path / "again", tasks=tasks)
    assert one.fingerprint == again.fingerprint == open_run(tmp_path / "one").fingerprint
    others = [
        extracted(tmp_path / "a", tasks=tasks, locations=("head",)),
        extracted(tmp_path / "b", tasks=tasks, pooling="mean"),
        extracted(tmp_path / "c", tasks=[split_task("A", (20, 5, 5), seed=1)]),
        extracted(tmp_path / "d", tasks=tasks, save_dtype="float16"),
        extracted(tmp_path / "e", "gpt_neo", tasks=tasks),
    ]
    threads = {**one.manifest["numerics"], "threads": 99}
    others.append(replace(one, manifest={**one.manifest, "numerics": threads}))
    # What the settings do not decide is told by the files: shards that differ, halved batches.
    others.append(replace(one, record={**one.record, "exact": False}))
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 8


@pytest.mark.parametrize("save_dtype", ["float16", "bfloat16"])
def test_rounding_is_to_the_nearest(tmp_path: Path, save_dtype: str) -> None:
    exact = extracted(tmp_path / "exact")
    found = extracted(tmp_path / "run", save_dtype=save_dtype)
    dtype = getattr(torch, save_dtype)
    for place in exact.places:
        wanted = torch.from_numpy(exact.vectors(place.location, place.layer)).to(dtype).float()
        assert np.array_equal(found.vectors(place.location, place.layer), wanted.numpy())
    assert found.record["n_overflow"] == 0
    size = sum(path.stat().st_size for path in found.files)
    assert size < 0.6 * sum(path.stat().st_size for path in exact.files)


def test_a_damaged_bank_is_refused(tmp_path: Path) -> None:
    for name in ("vectors/000000.safetensors", "examples.parquet", "sentences.parquet"):
        bank = extracted(tmp_path / name.partition(".")[0].replace("/", "-"))
        path = bank.folder / name
        damage(path)
        with pytest.raises(PyengineError, match=rf"{path.name} is damaged"):
            open_run(bank.folder)


def test_a_bank_becomes_parquet(tmp_path: Path) -> None:
    bank = extracted(tmp_path / "run")
    export(bank, "parquet", tmp_path / "bank.parquet")
    export(open_run(tmp_path / "run"), "parquet", tmp_path / "again.parquet")
    assert (tmp_path / "bank.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()
    table, texts = pq.read_table(tmp_path / "bank.parquet"), bank.texts()
    assert len(table) == bank.n_sentences * sum(place.n_parts for place in bank.places)
    at = 0
    for place in bank.places:
        n = bank.n_sentences * place.n_parts
        rows, at = table.slice(at, n), at + n
        assert {*rows["location"].to_pylist()} == {place.location}
        assert {*rows["layer"].to_pylist()} == {place.layer}
        heads = [*range(place.n_parts)] if place.n_parts > 1 else [-1]
        assert rows["head"].to_pylist() == heads * bank.n_sentences
        sentences = np.repeat(np.arange(bank.n_sentences), place.n_parts).tolist()
        assert rows["sentence"].to_pylist() == sentences
        assert rows["text"].to_pylist() == [texts[i] for i in sentences]
        vectors = bank.vectors(place.location, place.layer).reshape(n, -1)
        assert np.array_equal(np.array(rows["vector"].to_pylist(), np.float32), vectors)
    first = hashlib.sha256(texts[0].encode()).hexdigest()
    assert table["sha256"][0].as_py() == first
    with pytest.raises(PyengineError, match="unknown format 'jsonl'"):
        export(bank, "jsonl", tmp_path / "bank.jsonl")


def test_a_place_of_one_head_has_head_0(tmp_path: Path) -> None:
    bank = extracted(tmp_path / "run", model=tiny(n_head=1))
    export(bank, "parquet", tmp_path / "bank.parquet")
    table = pq.read_table(tmp_path / "bank.parquet")
    pairs = set(zip(table["location"].to_pylist(), table["head"].to_pylist(), strict=True))
    assert pairs == {("head", 0), ("block", -1)}


def test_the_manifest_counts_what_was_read(tmp_path: Path) -> None:
    tasks = [split_task("A", (20, 5, 5)), split_task("B", (20, 5, 5))]
    bank = extracted(tmp_path / "run", tasks=tasks)
    corpus = json.loads((tmp_path / "run" / "manifest.json").read_text())["corpus"]
    n = len(sentences_of(tasks))
    assert corpus["source"] == "A, B" and corpus["n_units"] == n == bank.n_sentences
    assert corpus["n_examples"] == 60 and corpus["n_duplicates"] == 60 - n >= 30
    lengths = [len(text.split()) for text in bank.texts()]
    assert corpus["n_tokens"] == sum(lengths) == bank.record["n_tokens"]
    table = pq.read_table(tmp_path / "run" / "sentences.parquet")
    assert table["n_tokens"].to_pylist() == lengths and not any(table["truncated"].to_pylist())
    assert len(bank.files) > 2 and SMALL["block_tokens"] < sum(lengths)

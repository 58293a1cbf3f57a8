"""What the tests of head probing share: banks of given arrays, without a model; small tasks."""

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tiny_models import tiny_model, word_tokenizer

from pyengine import load, open_run
from pyengine.cache_files import write_tensors
from pyengine.heads.bank import BankPlace, HeadBank
from pyengine.heads.bank_files import SENTENCES, TABLES, content_hash, write_tables
from pyengine.heads.bank_tasks import indexed
from pyengine.heads.extract import extract_heads
from pyengine.heads.task import CLASSES, INNER_K_FOLD, SPLIT, Examples, Task
from pyengine.models import Model
from pyengine.run import RunFolder


def bank_of(
    arrays: Mapping[tuple[str, int], np.ndarray],
    tasks: Sequence[Task],
    folder: Path | None = None,
    model: str = "arrays",
) -> HeadBank:
    """Write a complete bank and open it.

    Args:
        arrays: float32 [n, parts, width] by (location, layer); row i is of sentence i, in the order
            in which `sentences_of(tasks)` lists them.
        tasks: whose sentences these are.
        folder: the run directory; None: one that is gone with the bank.
        model: what results call the model.
    """
    texts, index = indexed(tasks)
    own = Path(tempfile.mkdtemp(prefix="pyengine-bank-")) if folder is None else folder
    run, n = own / "bank" if folder is None else folder, len(texts)
    places, tensors = [], {}
    for (location, layer), array in arrays.items():
        assert array.shape[0] == n, f"{n} sentences, {array.shape[0]} rows"
        width = array.shape[1] * array.shape[2]
        place = BankPlace(location, layer, "decoder", array.shape[1], width, "last")
        places.append(place)
        tensors[place.name] = torch.from_numpy(array.astype(np.float32).reshape(n, width).copy())
    manifest: dict[str, Any] = {
        "format": 1,
        "analysis": "heads",
        "status": "incomplete",
        "question": {"places": [place.record for place in places], "save_dtype": "float32"},
        "numerics": {"dtype": "float32"},
        "model": {"name": model, "family": "gpt2", "sha256": model},
        "corpus": {"source": ", ".join(index), "sha256": content_hash(texts, index)},
    }
    begun = RunFolder.begin(run, manifest)
    columns = {"sentence": np.arange(n), "text": texts, "n_tokens": np.ones(n, np.int32)}
    write_tables(run, pa.table(columns | {"truncated": [False] * n}).cast(SENTENCES), index)
    file = run / "parts" / "000000.safetensors"
    write_tensors(file, tensors)
    counters = {"n_sentences": n, "n_tokens": n, "n_computed": n}
    record = counters | {"n_overflow": 0, "n_nan": 0, "exact": True}
    HeadBank(run, (file,), manifest, record).write(begun)
    bank: HeadBank = open_run(run)
    if folder is None:
        weakref.finalize(bank, shutil.rmtree, own, ignore_errors=True)
    return bank


def sentences_of(tasks: Sequence[Task]) -> list[str]:
    """Return the sentences in the order in which a bank has them."""
    return indexed(tasks)[0]


def split_task(
    name: str, sizes: tuple[int, int, int], n_classes: int = 2, seed: int = 0, longest: int = 9
) -> Task:
    """Make a task with train, dev and test, of random sentences of the words `w0` ... `w79`."""
    rng = np.random.default_rng(seed)
    parts = {
        part: Examples(
            tuple(random_sentence(rng, longest) for _ in range(n)),
            None,
            np.arange(n, dtype=np.int64) % n_classes,
        )
        for part, n in zip(("train", "dev", "test"), sizes, strict=True)
    }
    return Task(name, CLASSES, SPLIT, tuple(f"c{i}" for i in range(n_classes)), parts)


def task(name: str, first: list[str], second: list[str] | None = None, **more: object) -> Task:
    """Make a task of one part."""
    what = {"kind": CLASSES, "protocol": INNER_K_FOLD, "labels": ("0", "1")} | more
    targets = what.pop("targets", np.zeros(len(first), np.int64))
    both = None if second is None else tuple(second)
    part = str(what.pop("part", "all"))
    return Task(name=name, parts={part: Examples(tuple(first), both, targets)}, **what)  # type: ignore[arg-type]


def random_sentence(rng: np.random.Generator, longest: int = 9) -> str:
    return " ".join(f"w{i}" for i in rng.integers(0, 80, rng.integers(1, longest + 1)))


SMALL: dict[str, Any] = {"batch_tokens": 48, "block_tokens": 60}


def small_tasks() -> list[Task]:
    """Two tasks that share sentences."""
    return [split_task("A", (20, 5, 5)), split_task("B", (20, 8, 5), n_classes=3)]


def tiny(family: str = "gpt2", **overrides: Any) -> Model:
    """Load a tiny model with a tokenizer of words."""
    return load((tiny_model(family, **overrides), word_tokenizer()))


def extracted(out: Path, family: str = "gpt2", **more: Any) -> HeadBank:
    """Make a bank of small tasks by a tiny model, in several blocks."""
    model = more.pop("model", None) or tiny(family)
    tasks = more.pop("tasks", None) or small_tasks()
    return extract_heads(model, tasks, out=out, **SMALL | more)


def bank_hashes(run: Path) -> dict[str, str]:
    """Checksums of a bank's files, after checking that nothing else lies around."""
    files = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file()}
    results = {name for name in files if name.startswith("vectors/")} | {*TABLES}
    assert files.keys() - results == {"manifest.json", "provenance.json"}
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in results}


def damage(path: Path) -> None:
    """Change the last byte of a file."""
    *whole, last = path.read_bytes()
    path.write_bytes(bytes([*whole, last ^ 1]))

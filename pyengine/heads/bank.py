"""The result of `extract_heads`: sentence vectors that stay in their files until they are read."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyengine.cache_files import open_tensors
from pyengine.errors import PyengineError
from pyengine.files import second_name
from pyengine.heads.bank_files import (
    FOLDER,
    TABLES,
    copy_tables,
    read_bank_tasks,
    read_sentences,
)
from pyengine.heads.bank_tasks import BankTask
from pyengine.heads.places import WITH_HEADS
from pyengine.manifest import COMPARED, DESCRIPTIVE
from pyengine.run import RunFolder

COUNTERS = ("n_sentences", "n_tokens", "n_overflow", "n_nan", "exact")


@dataclass(frozen=True)
class BankPlace:
    """What a bank keeps of a location of a layer.

    Attributes:
        location: `head`, `cross`, `block`, `ffn` or `neurons`.
        layer: index through all stacks, the encoder's first.
        stack: `encoder` or `decoder`.
        n_parts: heads; 1 where there are none.
        width: of the vector of a sentence, all parts side by side.
        pooling: how a sentence's tokens became one vector: `first`, `last`, `mean` or `pad`.
    """

    location: str
    layer: int
    stack: str
    n_parts: int
    width: int
    pooling: str

    @property
    def name(self) -> str:
        """`head.3`, `block.11`, ..."""
        return f"{self.location}.{self.layer}"

    @property
    def has_heads(self) -> bool:
        """Whether its parts are heads; there may be one."""
        return self.location in WITH_HEADS

    @property
    def record(self) -> dict[str, Any]:
        """What the manifest says."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class HeadBank:
    """Vectors of the distinct sentences of some tasks, and the tasks.

    Of a shard alone, it holds the shard's own sentences only.

    Attributes:
        folder: the run directory.
        files: with the vectors, in the order of the sentences.
        manifest: settings, model and corpus, as in `manifest.json`.
        record: counters: n_sentences, n_tokens, n_computed, exact; n_overflow, finite numbers that
            are infinite in the dtype they were saved in; n_nan, numbers that are NaN.
    """

    folder: Path
    files: tuple[Path, ...]
    manifest: dict[str, Any]
    record: dict[str, Any]

    @cached_property
    def places(self) -> tuple[BankPlace, ...]:
        """What is kept, location by location, layer by layer."""
        return tuple(BankPlace(**place) for place in self.manifest["question"]["places"])

    @cached_property
    def tasks(self) -> dict[str, BankTask]:
        """The tasks by name, in the order in which they were given."""
        return read_bank_tasks(self.folder)

    @property
    def n_sentences(self) -> int:
        return int(self.record["n_sentences"])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the tasks and the vectors, to the last bit.

        It is the same for any shards, and another one for another device, number of threads or
        version of a library: results of both may be in one table, but are told apart. Where the
        bits depend on more (shards that differ in these, memory that ran out), of the files too.
        """
        kept: dict[str, Any] = {
            section: {
                name: value
                for name, value in self.manifest[section].items()
                if name not in DESCRIPTIVE.get(section, ())
            }
            for section in COMPARED
            if isinstance(self.manifest[section], dict)
        }
        if not self.record["exact"]:
            kept["files"] = self.manifest.get("files")
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def place(self, location: str, layer: int) -> BankPlace:
        """Return what is kept of a location of a layer.

        Raises:
            PyengineError: if nothing is.
        """
        layers = {place.layer: place for place in self.places if place.location == location}
        if not layers:
            known = ", ".join(dict.fromkeys(place.location for place in self.places))
            raise PyengineError(f"the bank has no location {location!r}; it has: {known}")
        if layer not in layers:
            known = ", ".join(map(str, layers))
            raise PyengineError(f"the bank has no layer {layer} of {location!r}; it has: {known}")
        return layers[layer]

    def task(self, name: str) -> BankTask:
        """Return a task.

        Raises:
            PyengineError: if the bank was not made for it.
        """
        if name not in self.tasks:
            raise PyengineError(f"the bank has no task {name!r}; it has: {', '.join(self.tasks)}")
        return self.tasks[name]

    def texts(self) -> list[str]:
        """Return the sentences."""
        texts: list[str] = read_sentences(self.folder)["text"].to_pylist()
        return texts

    def vectors(self, location: str, layer: int, sentences: np.ndarray | None = None) -> np.ndarray:
        """Read the vectors of a place from the files, which are mapped.

        Args:
            location: `head`, `block`, ...
            layer: through all stacks.
            sentences: int64 [n], distinct and ascending: nothing else is read; None: all.

        Returns:
            float32 [n, n_parts, width // n_parts], in memory of its own.

        Raises:
            PyengineError: if the bank has no such place, or a file is damaged.
        """
        place = self.place(location, layer)
        wanted = np.arange(self.n_sentences) if sentences is None else sentences
        found, first = torch.empty((len(wanted), place.width)), 0
        for path in self.files:
            with open_tensors(path) as file:
                part = file.get_tensor(place.name)
                begin, end = np.searchsorted(wanted, [first, first + len(part)])
                own = torch.from_numpy(wanted[begin:end] - first)
                found[begin:end] = part if len(own) == len(part) else part[own]
                first += len(part)
        shape = len(wanted), place.n_parts, place.width // place.n_parts
        array: np.ndarray = found.numpy().reshape(shape)
        return array

    def __repr__(self) -> str:
        return (
            f"HeadBank({self.n_sentences:,} sentences of {', '.join(self.tasks)}; "
            f"{len(self.places)} places)"
        )

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Put the files in their places in a run directory and complete it."""
        folder = run.path / FOLDER
        folder.mkdir(exist_ok=True)
        for path in self.files:
            second_name(path, folder / path.name)
        copy_tables(self.folder, run.path)
        names = [*TABLES, *(f"{FOLDER}/{path.name}" for path in self.files)]
        counters = {name: self.record[name] for name in COUNTERS}
        run.finish(names, counters, n_computed=self.record["n_computed"], **provenance)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "HeadBank":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        files = [folder / name for name in manifest["files"] if name.startswith(f"{FOLDER}/")]
        record = {"n_computed": None, **manifest["result"]}
        return cls(folder, tuple(sorted(files, key=lambda path: int(path.stem))), manifest, record)

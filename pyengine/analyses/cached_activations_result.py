"""The result of `cache_activations`: tensors that stay in their files until they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from pyengine.analyses.prediction_tables import Groups
from pyengine.cache_files import open_tensors
from pyengine.errors import PyengineError
from pyengine.files import second_name
from pyengine.run import RunFolder
from pyengine.token_text import TokenText

INDEX_FILE, FOLDER, TENSORS = "index.parquet", "activations", "safetensors"
COUNTERS = ("n_units", "n_tokens", "n_overflow", "exact")

INDEX = pa.schema(
    [
        ("unit", pa.int64()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("n_tokens", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
    ]
)


def tensor_file(block: int) -> str:
    """Name the file of a block, from the run directory."""
    return f"{FOLDER}/{block:06d}.{TENSORS}"


@dataclass(frozen=True, eq=False)
class CachedActivations:
    """Activations of some sites at every content token of a corpus.

    The rows of a file are the content tokens of a block of units, in the corpus's order; special
    tokens and padding are left out. T5's decoder slot p, which reads the token before it, is the
    row of position p - 1. Heads have an axis of their own.

    Attributes:
        files: one per block, in order.
        index_groups: the rows of `index`.
        text: turns token ids into text.
        manifest: settings, model and corpus, as in `manifest.json`.
        record: counters: n_units, n_tokens, n_computed, exact, and n_overflow, the finite numbers
            that are infinite in the dtype they were saved in.
    """

    files: tuple[Path, ...]
    index_groups: Groups
    text: TokenText
    manifest: dict[str, Any]
    record: dict[str, Any]

    @property
    def sites(self) -> tuple[str, ...]:
        """Canonical names, in the order of the forward pass."""
        return tuple(self.manifest["question"]["sites"])

    @property
    def n_blocks(self) -> int:
        return len(self.files)

    @cached_property
    def index(self) -> pa.Table:
        """One row per unit, ascending.

        Columns: unit; file; row, the file's row of the unit's first token; n_tokens; tokens, their
        ids.
        """
        return self.index_groups.read()

    def tensor(self, site: str, block: int) -> Tensor:
        """Return a site's values in a block, [n_tokens of the block, ...], mapped from its file.

        Raises:
            PyengineError: if the site was not kept, or there is no such block.
        """
        self._check_site(site)
        if not 0 <= block < self.n_blocks:
            raise PyengineError(f"there is no block {block}; there are 0 to {self.n_blocks - 1}")
        return self._read(block, [site])[site]

    def unit(self, unit: int) -> dict[str, Tensor]:
        """Return every site's values in a unit, [n_tokens of the unit, ...].

        Raises:
            PyengineError: if there is no such unit.
        """
        _units, blocks, rows, lengths = self._places
        at = self._row_of(unit)
        part = slice(int(rows[at]), int(rows[at] + lengths[at]))
        whole = self._read(int(blocks[at]), self.sites)
        return {site: values[part] for site, values in whole.items()}

    def tokens(self, unit: int) -> list[int]:
        """Return the token ids of a unit.

        Raises:
            PyengineError: if there is no such unit.
        """
        ids: list[int] = self.index["tokens"][self._row_of(unit)].as_py()
        return ids

    def __iter__(self) -> Iterator[tuple[pa.Table, dict[str, Tensor]]]:
        """Yield block by block its rows of the index and every site's values."""
        _units, blocks, _rows, _lengths = self._places
        bounds = np.searchsorted(blocks, np.arange(self.n_blocks + 1))
        for block in range(self.n_blocks):
            first, last = int(bounds[block]), int(bounds[block + 1])
            yield self.index.slice(first, last - first), self._read(block, self.sites)

    def __repr__(self) -> str:
        return (
            f"CachedActivations({len(self.sites)} sites, {self.record['n_tokens']:,} tokens, "
            f"{self.n_blocks} blocks)"
        )

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Put the files in their places in a run directory and complete it."""
        folder = run.path / FOLDER
        folder.mkdir(exist_ok=True)
        for path in self.files:
            second_name(path, folder / path.name)
        self.index_groups.write(run.path / INDEX_FILE)
        names = [INDEX_FILE, self.text.save(run.path)]
        names += [f"{FOLDER}/{path.name}" for path in self.files]
        counters = {name: self.record[name] for name in COUNTERS}
        files = [name for name in names if name is not None]
        run.finish(files, counters, n_computed=self.record["n_computed"], **provenance)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "CachedActivations":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        files = [folder / name for name in manifest["files"] if name.startswith(f"{FOLDER}/")]
        return cls(
            tuple(sorted(files, key=lambda path: int(path.stem))),
            Groups(INDEX, (folder / INDEX_FILE,)),
            TokenText.load(folder),
            manifest,
            {"n_computed": None, **manifest["result"]},
        )

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return units, and of each its block, the row of its first token, and its length."""
        numbers = {path.name: number for number, path in enumerate(self.files)}
        table = self.index_groups.read(["unit", "file", "row", "n_tokens"])
        coded = table["file"].combine_chunks().dictionary_encode()
        of_file = [numbers[Path(name).name] for name in coded.dictionary.to_pylist()]
        blocks = np.array(of_file, np.int64)[coded.indices.to_numpy(zero_copy_only=False)]
        units, rows, lengths = (table[name].to_numpy() for name in ("unit", "row", "n_tokens"))
        return units, blocks, rows, lengths

    def _row_of(self, unit: int) -> int:
        """Return the row of the index of a unit."""
        units = self._places[0]
        at = int(np.searchsorted(units, unit))
        if at == len(units) or units[at] != unit:
            what = f"there are {units[0]} to {units[-1]}" if len(units) else "there are none"
            raise PyengineError(f"there is no unit {unit}; {what}")
        return at

    def _read(self, block: int, sites: tuple[str, ...] | list[str]) -> dict[str, Tensor]:
        with open_tensors(self.files[block]) as file:
            return {site: file.get_tensor(site) for site in sites}

    def _check_site(self, site: str) -> None:
        if site not in self.sites:
            some = ", ".join(self.sites[:3]) + (", …" if len(self.sites) > 3 else "")
            raise PyengineError(f"site {site!r} was not kept; there are: {some}")

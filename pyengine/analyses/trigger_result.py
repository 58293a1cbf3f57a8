"""The result of a trigger search: the k best prefixes of every key, readable without the corpus."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.run import RunFolder
from pyengine.shards import Shard, load_tensors, save_tensors
from pyengine.token_text import TokenText
from pyengine.units import UnitTable

RESULT = "triggers.safetensors"
COUNTERS = ("n_tokens", "n_computed", "n_nan", "exact")


@dataclass(frozen=True)
class Example:
    """One trigger example.

    Attributes:
        rank: 0 is the best.
        score: the coefficient.
        unit: index of the unit in the corpus.
        position: content token of the unit that the key fired on, from 0.
        token: its token id.
        next_token: the id that follows, -1 at the end of the unit.
        text: the prefix that ends at `position`.
    """

    rank: int
    score: float
    unit: int
    position: int
    token: int
    next_token: int
    text: str


@dataclass(frozen=True)
class TriggerExamples:
    """The k best trigger examples of every key, in one direction.

    Attributes:
        scores: float32 [n_layers, d_ff, k], descending (ascending for minima), NaN where fewer
            than k exist. T5: encoder layers, then decoder.
        units: int64 [n_layers, d_ff, k], -1 where fewer than k exist.
        positions: int32 [n_layers, d_ff, k], -1 where fewer than k exist.
        layers: the model's layer of each first index; all of them unless asked otherwise.
        dims: the dimension of each second index; all of them unless asked otherwise.
        table: the units referred to, with their tokens.
        text: turns token ids into text.
        manifest: settings, model and corpus, as in `manifest.json`.
        record: counters of the pass: n_tokens, n_computed, n_nan per layer, exact.
        minima: the other direction, when `sign="both"`.
    """

    scores: Tensor
    units: Tensor
    positions: Tensor
    layers: tuple[int, ...]
    dims: tuple[int, ...]
    table: UnitTable
    text: TokenText
    manifest: dict[str, Any]
    record: dict[str, Any]
    minima: "TriggerExamples | None" = None

    @property
    def k(self) -> int:
        return int(self.scores.shape[2])

    def examples(self, layer: int, dim: int) -> list[Example]:
        """List the trigger examples of a key, best first; fewer than k where fewer exist.

        Raises:
            PyengineError: if the run holds no such key.
        """
        row, column = self._index("layer", self.layers, layer), self._index("dim", self.dims, dim)
        units, positions = self.units[row, column].tolist(), self.positions[row, column].tolist()
        scores = self.scores[row, column].tolist()
        found = zip(scores, units, positions, strict=True)
        return [self._example(rank, *entry) for rank, entry in enumerate(found) if entry[1] >= 0]

    def sides(self) -> dict[str, "TriggerExamples"]:
        """Return the directions that were searched: `max`, `min`, or both."""
        sign = self.manifest["question"]["sign"]
        if self.minima is None:
            return {sign: self}
        return {"max": replace(self, minima=None), "min": self.minima}

    def unit_tokens(self, unit: int) -> list[int]:
        """Return the content tokens of a unit that some key refers to."""
        return self.table.tokens_of(unit).tolist()

    def save(self, folder: str | Path) -> Path:
        """Write a run directory that `pyengine.open_run` reads.

        Raises:
            PyengineError: if the directory holds another run, or cannot be written.
        """
        run = RunFolder.begin(Path(folder), self.manifest)
        self.write(run)
        return run.path

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Write the result into a run directory and complete it."""
        save_tensors(run.path / RESULT, self.tensors(), self.record)
        names = [name for name in (RESULT, self.text.save(run.path)) if name is not None]
        counters = {name: self.record[name] for name in ("n_tokens", "n_nan", "exact")}
        run.finish(names, counters, n_computed=self.record["n_computed"], **provenance)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "TriggerExamples":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        tensors, record = load_tensors(folder / RESULT)
        return cls.from_tensors(tensors, TokenText.load(folder), manifest, record)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays of `triggers.safetensors`."""
        sides = {"": self} if self.minima is None else {"": self, "minima.": self.minima}
        arrays = {
            f"{prefix}{name}": getattr(side, name).numpy()
            for prefix, side in sides.items()
            for name in ("scores", "units", "positions")
        }
        arrays |= {"layers": np.array(self.layers), "dims": np.array(self.dims)}
        table = {f"table.{name}": value for name, value in vars(self.table).items()}
        return arrays | table

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, np.ndarray],
        text: TokenText,
        manifest: dict[str, Any],
        record: dict[str, Any],
    ) -> "TriggerExamples":
        """Rebuild what `tensors` returned."""
        table = UnitTable(**{k[6:]: v for k, v in tensors.items() if k.startswith("table.")})
        layers, dims = tuple(tensors["layers"].tolist()), tuple(tensors["dims"].tolist())

        def side(prefix: str) -> "TriggerExamples":
            scores, units, positions = (
                torch.from_numpy(tensors[prefix + name])
                for name in ("scores", "units", "positions")
            )
            return cls(scores, units, positions, layers, dims, table, text, manifest, record)

        if "minima.scores" not in tensors:
            return side("")
        return replace(side(""), minima=side("minima."))

    @classmethod
    def from_shard(
        cls,
        shard: Shard,
        text: TokenText,
        manifest: dict[str, Any],
    ) -> "TriggerExamples":
        """Turn a complete shard (or a merge of them) into a result."""
        question = manifest["question"]
        layers = tuple(question["layers"])
        dims = question["dims"]
        dims = tuple(range(manifest["model"]["d_ff"])) if dims is None else tuple(dims)
        table = shard.table
        assert table is not None, "only complete shards have a table"
        # How the corpus was cut into shards leaves no trace in the result.
        record = {name: shard.record[name] for name in COUNTERS}
        n_nan = np.zeros(manifest["model"]["n_layers"], np.int64)
        n_nan[list(layers)] = record["n_nan"]
        record["n_nan"] = n_nan.tolist()
        heaps = shard.states[0]

        def side(direction: str) -> "TriggerExamples":
            found, ids = heaps[f"{direction}.scores"], heaps[f"{direction}.ids"]
            shape = (len(layers), len(dims), found.shape[1])
            scores, units, positions = (
                torch.from_numpy(part.reshape(shape)) for part in (found, *table.locate(ids))
            )
            return cls(scores, units, positions, layers, dims, table, text, manifest, record)

        sign = question["sign"]
        return replace(side("max"), minima=side("min")) if sign == "both" else side(sign)

    def _index(self, what: str, known: tuple[int, ...], wanted: int) -> int:
        if wanted not in known:
            shown = f"{known[0]} to {known[-1]}" if len(known) > 8 else ", ".join(map(str, known))
            raise PyengineError(f"this run holds no {what} {wanted}; it holds {shown}")
        return known.index(wanted)

    def _example(self, rank: int, score: float, unit: int, position: int) -> Example:
        tokens = self.unit_tokens(unit)
        after = tokens[position + 1] if position + 1 < len(tokens) else -1
        text = self.text.decode(tokens[: position + 1])
        return Example(rank, score, unit, position, tokens[position], after, text)

"""The examples of a block, in order of unit and position, and the columns that are filled in."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyengine.batches import Batch
from pyengine.positions import choose_positions
from pyengine.store import TokenStore
from pyengine.token_text import TokenText


@dataclass(frozen=True, eq=False)
class Examples:
    """n positions of the units of a block.

    Attributes:
        first_unit: of the block.
        starts: int64 [units + 1], where each unit's examples start.
        units, positions: int64 [n].
        tokens: int64 [n], the token at the position.
        next_tokens: int64 [n], the one after it, -1 at the end of its unit.
    """

    first_unit: int
    starts: np.ndarray
    units: np.ndarray
    positions: np.ndarray
    tokens: np.ndarray
    next_tokens: np.ndarray

    @classmethod
    def choose(
        cls, store: TokenStore, units: tuple[int, int], position: str, seed: int
    ) -> "Examples":
        """Choose positions of the units from the first to the one before the last."""
        offsets = np.asarray(store.offsets[units[0] : units[1] + 1])
        lengths = np.diff(offsets)
        rows, positions = choose_positions(position, seed, np.arange(*units), lengths)
        counts = np.bincount(rows, minlength=len(lengths))
        at = offsets[rows] + positions
        inside = positions + 1 < lengths[rows]
        after = store.tokens[np.where(inside, at + 1, at)].astype(np.int64)
        return cls(
            units[0],
            np.concatenate([[0], np.cumsum(counts)]),
            rows + units[0],
            positions,
            store.tokens[at].astype(np.int64),
            np.where(inside, after, -1),
        )

    def of_batch(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each example in a batch, its row there and its place here, int64."""
        unit = batch.units - self.first_unit
        counts = self.starts[unit + 1] - self.starts[unit]
        rows = np.repeat(np.arange(len(unit)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.starts[unit][rows] + within

    def columns(self, store: TokenStore, text: TokenText) -> dict[str, np.ndarray]:
        """Return the columns of the table of examples."""
        different = np.unique(self.units).tolist()
        sequences = {unit: store.unit_tokens(unit).tolist() for unit in different}
        whole = dict(zip(different, text.decode_many(list(sequences.values())), strict=True))
        found = list(zip(self.units.tolist(), self.positions.tolist(), strict=True))
        prefixes = text.decode_many([sequences[unit][: at + 1] for unit, at in found])
        return {
            "unit": self.units,
            "position": self.positions,
            "token": self.tokens,
            "text": np.array([whole[unit] for unit, _ in found], object),
            "prefix": np.array(prefixes, object),
        }


class BlockTable:
    """The columns of a block, filled batch by batch: [examples, layers] or [.., .., list]."""

    def __init__(self, examples: Examples, layers: tuple[int, ...]) -> None:
        self._shape = (len(examples.units), len(layers))
        self._columns = {
            "unit": np.broadcast_to(examples.units[:, None], self._shape),
            "position": np.broadcast_to(examples.positions[:, None], self._shape),
            "layer": np.broadcast_to(np.array(layers), self._shape),
        }

    def fill(self, slots: np.ndarray, number: int, columns: dict[str, Tensor]) -> None:
        """Put the columns of some examples and of the `number`-th layer in place."""
        for name, column in columns.items():
            narrow = torch.float32 if column.is_floating_point() else torch.int32
            values = column.to(narrow).cpu().numpy()
            if name not in self._columns:
                self._columns[name] = np.empty((*self._shape, *values.shape[1:]), values.dtype)
            self._columns[name][slots, number] = values

    def rows(self) -> dict[str, np.ndarray]:
        """Return the columns, one row per example and layer."""
        n = self._shape[0] * self._shape[1]
        return {name: c.reshape(n, *c.shape[2:]) for name, c in self._columns.items()}

"""The units that a result refers to, with their tokens: a Run is readable without its corpus."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pyengine.store import TokenStore


@dataclass(frozen=True)
class UnitTable:
    """Some units of a corpus and their content tokens, ascending by unit.

    Attributes:
        units: int64 [n], unit index in the corpus.
        first_ids: int64 [n], offset of the unit's first token among all content tokens.
        offsets: int64 [n + 1], where each unit's tokens start in `tokens`.
        tokens: int32 [total], token ids of the vocabulary.
    """

    units: np.ndarray
    first_ids: np.ndarray
    offsets: np.ndarray
    tokens: np.ndarray

    @classmethod
    def from_store(cls, store: TokenStore, ids: np.ndarray) -> "UnitTable":
        """Collect the units that hold the token offsets `ids` (-1 is skipped)."""
        held = np.zeros(store.n_units, bool)
        held[_rows(np.asarray(store.offsets)[:-1], ids[ids >= 0])] = True
        units = np.flatnonzero(held)
        starts = np.asarray(store.offsets)[units]
        lengths = np.asarray(store.offsets)[units + 1] - starts
        return cls(units, starts, _starts(lengths), _gather(store.tokens, starts, lengths))

    @classmethod
    def merge(cls, tables: Iterable["UnitTable"], ids: np.ndarray) -> "UnitTable":
        """Collect from several tables the units that hold `ids`, one table in memory at a time."""
        wanted = np.unique(ids[ids >= 0])
        taken = np.zeros(len(wanted), bool)
        parts = [table._holding(wanted, taken) for table in tables]
        if not parts:
            return cls.empty()
        units = np.concatenate([part.units for part in parts])
        order = np.argsort(units)
        first_ids = np.concatenate([part.first_ids for part in parts])[order]
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)])[:-1][order]
        tokens = np.concatenate([part.tokens for part in parts])
        lengths = lengths[order]
        return cls(units[order], first_ids, _starts(lengths), _gather(tokens, starts, lengths))

    @classmethod
    def empty(cls) -> "UnitTable":
        none = np.zeros(0, np.int64)
        return cls(none, none, np.zeros(1, np.int64), np.zeros(0, np.int32))

    def locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn token offsets into (unit int64, position int32); -1 stays -1."""
        if not len(self.units):
            return np.full(ids.shape, -1, np.int64), np.full(ids.shape, -1, np.int32)
        row = np.maximum(_rows(self.first_ids, ids), 0)
        units = np.where(ids >= 0, self.units[row], -1)
        positions = np.where(ids >= 0, ids - self.first_ids[row], -1)
        return units, positions.astype(np.int32)

    def tokens_of(self, unit: int) -> np.ndarray:
        """Return the content tokens of a unit, int32 [length].

        Raises:
            KeyError: if the table does not hold the unit.
        """
        row = int(np.searchsorted(self.units, unit))
        if row == len(self.units) or self.units[row] != unit:
            raise KeyError(unit)
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def _holding(self, ids: np.ndarray, taken: np.ndarray) -> "UnitTable":
        """Return the units that hold `ids` (ascending), without those taken before; mark them."""
        lengths = np.diff(self.offsets)
        low = np.searchsorted(ids, self.first_ids)
        high = np.searchsorted(ids, self.first_ids + lengths)
        kept = np.flatnonzero(high > low)
        kept = kept[~taken[low[kept]]]
        taken[low[kept]] = True
        tokens = _gather(self.tokens, self.offsets[:-1][kept], lengths[kept])
        return UnitTable(self.units[kept], self.first_ids[kept], _starts(lengths[kept]), tokens)


def _rows(starts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the last row that starts at or before each id, -1 where none does."""
    end = int(ids.max(initial=-1)) + 1
    if end > ids.size:
        return np.searchsorted(starts, ids, side="right") - 1
    # Few tokens and many ids: a table is ten times as fast. Its last entry answers for -1.
    counted = np.bincount(starts[starts < end], minlength=end + 1)
    table = np.cumsum(counted) - 1
    table[-1] = -1
    return table[ids]


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _gather(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate tokens[start : start + length] of every pair."""
    before = _starts(lengths)
    inside = np.arange(before[-1]) - np.repeat(before[:-1], lengths)
    return np.asarray(tokens[np.repeat(starts, lengths) + inside], dtype=np.int32)

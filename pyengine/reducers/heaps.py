"""The k best packed keys of every key: of units or tokens, or at most one for each prefix."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyengine import ops
from pyengine.errors import PyengineError
from pyengine.packed import EMPTY, floor_key, pack, score_of

SLICE = 256  # positions that a PrefixHeap folds in at once: bounds its memory


class Heap(ABC):
    """The k best entries of each of `n_keys` keys, by the packed keys of `pyengine.packed`."""

    k: int
    parts: tuple[str, ...] = ("",)  # of `tensors`

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state: under "" int64 [n_keys, k], descending, EMPTY at the end."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `tensors` returned, dropping what is pending."""

    @abstractmethod
    def groups(self) -> Tensor:
        """Return int64 [n_keys, k]: of entries of one group only the best may stay."""

    @abstractmethod
    def fold(
        self,
        captured: ops.Captured,
        rows: ops.Rows,
        prefixes: Tensor,
        *,
        sign: int,
        index: int = 0,
        first_key: int = 0,
        seen: int = 0,
        careful: bool = False,
    ) -> None:
        """Fold a batch in, as `pyengine.ops.topk_fold` does, without waiting where it can.

        `prefixes`, int64 [B, T], are equal where equal prefixes end; `index` is the place of `sign`
        among those of `captured`.
        """

    def snapshot(self) -> Any:
        """Return what `restore` needs; on the CPU only the latest can be restored."""
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, dropping what is pending."""
        self.load(snapshot)

    def flush(self) -> None:  # noqa: B027 - not every heap has something pending
        """Merge what is pending, without waiting for the device."""

    def take_overflow(self) -> bool:
        """Return whether candidates were lost since the last call; waits for the device."""
        return False

    def merge(self, other: "Heap") -> None:
        """Fold the entries of a heap of the same kind in, from any device."""
        mine, theirs = self.tensors()[""], other.tensors()[""]
        entries = torch.cat([mine, theirs.to(mine.device)], dim=1)
        groups = torch.cat([self.groups(), other.groups().to(mine.device)], dim=1)
        top, prefixes = best_of_groups(entries, groups, self.k)
        self.load({"": top, "_prefixes": prefixes})


class RowHeap(Heap):
    """Every position competes, or every row with its best one (`unit_size`: ids per unit)."""

    def __init__(
        self,
        n_keys: int,
        k: int,
        *,
        device: torch.device | str,
        floor: float | None,
        unit_size: int | None,
    ) -> None:
        per_unit = unit_size is not None
        self.k, self._unit_size = k, unit_size or 1
        self._state = ops.TopKState(n_keys, k, device=device, floor=floor, per_unit=per_unit)

    def tensors(self) -> dict[str, Tensor]:
        return {"": self._state.top}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._state.load(tensors[""])

    def snapshot(self) -> Any:
        return self._state.snapshot()

    def restore(self, snapshot: Any) -> None:
        self._state.restore(snapshot)

    def groups(self) -> Tensor:
        """Return the id of the unit, or of the position."""
        ids = ops.unpack(self._state.top)[1]
        return ids.div(self._unit_size, rounding_mode="floor")

    def fold(
        self,
        captured: ops.Captured,
        rows: ops.Rows,
        prefixes: Tensor,
        *,
        sign: int,
        index: int = 0,
        first_key: int = 0,
        seen: int = 0,
        careful: bool = False,
    ) -> None:
        state = self._state
        n_nan = ops.topk_fold(
            state,
            captured.values,
            captured.block_max[index] if state.needs_block_max else None,
            rows,
            first_key=first_key,
            sign=sign,
            seen=seen,
            careful=careful,
        )
        captured.note_nan(n_nan, rows)

    def flush(self) -> None:
        ops.topk_flush(self._state)

    def take_overflow(self) -> bool:
        overflowed = bool(self._state.overflow.item())
        self._state.overflow.zero_()
        return overflowed


class PrefixHeap(Heap):
    """Equal prefixes compete once, with the best of their packed keys.

    So the state is the top-k of the maxima of groups, which does not depend on the order in which
    the members of the groups arrive. A prefix that is dropped needs no memory: were it to belong
    to the result, the member of its group that takes it there would enter by itself.
    """

    parts = ("", "_prefixes")

    def __init__(
        self, n_keys: int, k: int, *, device: torch.device | str, floor: float | None
    ) -> None:
        self.k = k
        if floor is not None and math.isnan(floor):
            raise PyengineError("floor must be a number, got nan")
        self._floor_key = EMPTY if floor is None else floor_key(floor)
        self._top = torch.full((n_keys, k), EMPTY, dtype=torch.int64, device=device)
        self._prefixes = torch.zeros_like(self._top)

    def tensors(self) -> dict[str, Tensor]:
        return {"": self._top, "_prefixes": self._prefixes}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, mine in self.tensors().items():
            mine.copy_(tensors[name])

    def groups(self) -> Tensor:
        return self._prefixes

    @torch.no_grad()
    def fold(
        self,
        captured: ops.Captured,
        rows: ops.Rows,
        prefixes: Tensor,
        *,
        sign: int,
        index: int = 0,
        first_key: int = 0,
        seen: int = 0,
        careful: bool = False,
    ) -> None:
        row, column = (rows.ids >= 0).nonzero().unbind(1)
        keys = slice(first_key, first_key + captured.values.shape[2])
        for place in zip(row.split(SLICE), column.split(SLICE), strict=True):
            scores = sign * captured.values[place].float()
            self._fold_slice(scores, rows.ids[place], prefixes[place], keys)

    def _fold_slice(self, scores: Tensor, ids: Tensor, prefixes: Tensor, keys: slice) -> None:
        """Fold scores [n, F] of n positions in."""
        top, kept = self._top[keys], self._prefixes[keys]  # views: updated in place
        threshold = top[:, -1].clamp(min=self._floor_key)
        key, at = (scores >= score_of(threshold)).t().nonzero().unbind(1)  # NaN fails
        packed = pack(scores[at, key], ids[at])
        enters = packed > threshold[key]
        key, at, packed = key[enters], at[enters], packed[enters]
        if not len(key):
            return
        owner, line, count = key.unique_consecutive(return_inverse=True, return_counts=True)
        rank = torch.arange(len(key), device=key.device) - (count.cumsum(0) - count)[line]
        found = packed.new_full((len(owner), int(count.max())), EMPTY)
        theirs = torch.zeros_like(found)
        found[line, rank], theirs[line, rank] = packed, prefixes[at]
        entries, groups = torch.cat([top[owner], found], 1), torch.cat([kept[owner], theirs], 1)
        top[owner], kept[owner] = best_of_groups(entries, groups, self.k)


def best_of_groups(entries: Tensor, groups: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest entries of each row, at most one for each group, and their groups.

    Args:
        entries: int64 [n_rows, n], packed keys, n >= k.
        groups: int64 [n_rows, n].
        k: how many to keep.
    """
    entries, order = entries.sort(dim=1, descending=True)
    groups = groups.gather(1, order)
    by_group = groups.argsort(dim=1, stable=True)  # inside a group the largest stays first
    ordered = groups.gather(1, by_group)
    repeats = torch.zeros_like(ordered, dtype=torch.bool)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeats = torch.zeros_like(repeats).scatter_(1, by_group, repeats)
    best, at = entries.masked_fill(repeats, EMPTY).topk(k, dim=1)
    return best, groups.gather(1, at)

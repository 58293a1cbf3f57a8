"""Streaming top-k on the CPU in C++: the heaps of `pyengine.topk_state.TopKState`.

Each key has room for more than k entries, in no order. An activation that beats the key's threshold
is appended; when the room is full, all but the best k are dropped, and the threshold rises.
"""

from typing import NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from pyengine import _native
from pyengine.packed import EMPTY
from pyengine.rows import Rows

LEAST_ROOM = 64  # beyond k: more costs memory, less tidies up too often
ALONE = 1 << 18  # activations below which threads cost more than they gain


class Undo(NamedTuple):
    """What going back needs: the state but for the entries, which are saved when they move.

    Attributes:
        counts: int32 [n_keys], entries of then.
        thresholds: int64 [n_keys], of then.
        saved: uint8 [n_keys], whether `kept` holds the entries of then; else they are in place.
        kept: int64 [n_keys, capacity], not initialised, so that untouched pages cost no memory.
    """

    counts: Tensor
    thresholds: Tensor
    saved: Tensor
    kept: Tensor


class NativeHeaps:
    """The k best packed keys of each of `n_keys` keys; memory `8 * n_keys * (k + max(64, k))`.

    After `mark` it may double, by what is needed to go back.

    Args:
        n_keys: number of keys.
        k: how many to keep.
        floor_key: only larger keys enter.
    """

    def __init__(self, n_keys: int, k: int, floor_key: int) -> None:
        self._k, self._floor_key = k, floor_key
        capacity = k + max(LEAST_ROOM, k)
        capacity += 8 * (capacity % 32 == 0)  # at a power of two, keys would share cache lines
        self._entries = torch.empty(n_keys, capacity, dtype=torch.int64)
        self._counts = torch.zeros(n_keys, dtype=torch.int32)
        self._thresholds = torch.full((n_keys,), floor_key, dtype=torch.int64)
        self._newest = torch.full((n_keys,), -1, dtype=torch.int64)
        self._repeats = torch.zeros(n_keys, dtype=torch.uint8)
        self._undo: Undo | None = None

    def fold(self, values: Tensor, rows: Rows, *, first_key: int, sign: int, per_unit: bool) -> int:
        """Fold [B, T, F] into the keys from `first_key` on; see `pyengine.ops.topk_fold`.

        Returns:
            The number of NaN among the competing values.

        Raises:
            ValueError: if ids do not ascend along a run of competing positions.
        """
        values = values.detach().float()
        if values.stride(2) != 1:
            values = values.contiguous()
        keys = slice(first_key, first_key + values.shape[2])
        undo = self._undo
        return _native.fold_topk(
            self._arrays(keys),
            {} if undo is None else _arrays(undo, keys),
            values.numpy(),
            rows.ids.numpy(),
            self._k,
            sign,
            per_unit,
            1 if values.numel() < ALONE else torch.get_num_threads(),
        )

    def top(self) -> Tensor:
        """Return int64 [n_keys, k], descending, EMPTY where fewer than k have been found."""
        arrays = self._arrays(slice(None))
        return torch.from_numpy(_native.best_entries(arrays, self._k, torch.get_num_threads()))

    def load(self, top: Tensor) -> None:
        """Continue from what `top` returned; there is no going back to a mark from before."""
        self._undo = None
        top = top.sort(dim=1, descending=True).values
        self._entries[:, : self._k] = top
        self._counts.copy_((top != EMPTY).sum(1))
        self._thresholds.copy_(top[:, -1].clamp(min=self._floor_key))
        ids = 0xFFFFFFFF - (top & 0xFFFFFFFF)
        self._newest.copy_(ids.masked_fill_(top == EMPTY, -1).amax(1))
        self._repeats.fill_(1)

    def mark(self) -> Undo:
        """Remember the present state, for `go_back`, at the price of what changes meanwhile."""
        kept = torch.empty_like(self._entries) if self._undo is None else self._undo.kept
        saved = torch.zeros_like(self._repeats)
        self._undo = Undo(self._counts.clone(), self._thresholds.clone(), saved, kept)
        return self._undo

    def go_back(self, mark: Undo) -> None:
        """Return to the last mark, as often as needed.

        Raises:
            ValueError: if it is not the last, or `load` came after it.
        """
        if mark is not self._undo:
            raise ValueError("only the latest snapshot can be restored")
        moved = mark.saved.bool()
        self._entries[moved] = mark.kept[moved]
        self._counts.copy_(mark.counts)
        self._thresholds.copy_(mark.thresholds)
        self._repeats.masked_fill_(moved, 1)  # they may have been tidied up since

    def _arrays(self, keys: slice) -> dict[str, NDArray]:
        names = ("entries", "counts", "thresholds", "newest", "repeats")
        return {name: getattr(self, f"_{name}")[keys].numpy() for name in names}


def _arrays(undo: Undo, keys: slice) -> dict[str, NDArray]:
    return {name: getattr(undo, name)[keys].numpy() for name in ("counts", "saved", "kept")}

"""StreamingTopK: the k highest (or lowest) activations of every key, over any stream."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyengine import ops
from pyengine.checks import check_choice, check_count
from pyengine.errors import PyengineError
from pyengine.reducers import settings
from pyengine.reducers.competing import MAX_IDS as MAX_IDS
from pyengine.reducers.competing import Competing, packed_ids
from pyengine.reducers.heaps import Heap, PrefixHeap, RowHeap
from pyengine.reducers.prefix_hashes import prefix_hashes

SIGNS = {"max": (1,), "min": (-1,), "both": (1, -1)}
PER = ("unit", "token", "prefix")
NAMES = {1: "max", -1: "min"}
MAX_K = 1024


class TopK(NamedTuple):
    """Entries of every key, best first: score descending (ascending for minima), then id.

    Attributes:
        scores: float32 [n_keys, k]; NaN where fewer than k exist.
        units: int64 [n_keys, k]; -1 where fewer than k exist.
        positions: int32 [n_keys, k]; -1 where fewer than k exist.
    """

    scores: Tensor
    units: Tensor
    positions: Tensor


class StreamingTopK:
    """Keep the k best positions of every key, exactly, in fixed memory.

    The result is the unique top-k under (score descending, id ascending), whatever the chunking,
    order or merging. Works in anybody's loop::

        topk = StreamingTopK(k=50, n_keys=3072, max_positions=1024)
        for acts, unit_ids, mask in batches:      # acts [B, T, n_keys]
            topk.update(acts, unit_ids, mask)
        best = topk.compute()

    The first tokens of an input (a BOS, attention sinks) have activations unlike all others, and
    fill the heaps of many keys: leave them out by `skip_first`, special tokens by `exclude`.

    With `per="prefix"` equal token prefixes compete once, with their best score; of occurrences
    with equal scores the first (lowest unit) is kept. A causal model gives equal prefixes equal
    scores, save for the last bits where batches differ in shape: then the occurrence that is
    reported may be a later one, but the same one in any order. Prefixes are told apart by a 64-bit
    hash. For other models, whose scores depend on what follows, this makes no sense.

    Args:
        k: entries per key, 1 to 1024 (on CUDA beyond 128 a slower merge is used).
        n_keys: number of keys.
        max_positions: positions per unit in the packed id, unit * max_positions + position.
        per: `unit` (each unit competes with its best position, ties: the earliest), `token`
            (every position) or `prefix`.
        sign: `max`, `min` or `both`.
        floor: only scores strictly above it compete; for minima, only those strictly below -floor.
        exclude: token ids that never compete, for `update(..., token_ids=...)`.
        skip_first: the first so many tokens of each row never compete: those that the mask lets in
            (so after left padding), and of the whole unit (see `first_position`, `positions`).
        device: where the heaps live; the activations must be there too.

    Raises:
        PyengineError: for k, n_keys, per, sign, exclude or skip_first out of range.
    """

    def __init__(
        self,
        k: int,
        n_keys: int,
        max_positions: int = 1024,
        *,
        per: str = "unit",
        sign: str = "max",
        floor: float | None = None,
        exclude: Sequence[int] = (),
        skip_first: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= k <= MAX_K:
            raise PyengineError(f"k must be from 1 to {MAX_K}, got {k}")
        check_choice("per", per, PER)
        check_choice("sign", sign, tuple(SIGNS))
        check_count("max_positions", max_positions)
        self._competing = Competing(n_keys, exclude, skip_first)
        self.k, self.n_keys, self.max_positions = k, n_keys, max_positions
        self.per, self.sign, self.floor, self.signs = per, sign, floor, SIGNS[sign]
        self._heaps = {s: self._new_heap(device) for s in self.signs}
        self._seen = 0

    def update(
        self,
        acts: Tensor,
        unit_ids: Tensor,
        mask: Tensor | None = None,
        token_ids: Tensor | None = None,
        *,
        first_position: int = 0,
        positions: Tensor | None = None,
    ) -> None:
        """Fold a batch in.

        Args:
            acts: [B, T, n_keys], float32, float16 or bfloat16; NaN never competes.
            unit_ids: integers [B]; with `per="unit"` a unit is one row of one call.
            mask: [B, T], bool or 0 and 1; False never competes. None: all compete. With
                `per="prefix"` the attention mask: what it hides is no part of a prefix.
            token_ids: integers [B, T]; needed for `exclude` and for `per="prefix"`.
            first_position: the position within its unit of the first column of `acts`.
            positions: integers [B, T], ascending along a row: the position of every place in its
                unit, if it is not `first_position` + column. After left padding the column is not
                what you want: pass `mask.cumsum(1) - 1`, the position among the real tokens.

        Raises:
            PyengineError: if a shape, dtype or id does not fit, or a unit is repeated.
        """
        places = self._competing.of(acts, mask, token_ids, first_position, positions)
        ids = packed_ids(unit_ids, places, self.max_positions, one_row_each=self.per == "unit")
        prefixes = prefix_hashes(token_ids, places) if self.per == "prefix" else ids
        rows = ops.Rows(ids)
        captured = ops.ffn_capture(acts, rows, act="identity", signs=self.signs)
        self._fold(captured, rows, prefixes, seen=self._seen)
        self._seen += len(rows.ids) if self.per == "unit" else rows.ids.numel()
        self.flush()
        if self.take_overflow():
            self._fold(captured, rows, prefixes, careful=True)
            self.flush()

    def fold(
        self,
        captured: ops.Captured,
        rows: ops.Rows,
        *,
        first_key: int = 0,
        seen: int = 0,
        careful: bool = False,
    ) -> None:
        """Fold captured activations into the keys from `first_key` on, without waiting.

        `rows.ids` are the packed ids (with `per="prefix"` each prefix has one); `seen` tells how
        many rows these keys have seen before. After `take_overflow` has returned True the same
        batch must be folded with `careful=True`.
        """
        self._fold(captured, rows, rows.ids, first_key=first_key, seen=seen, careful=careful)

    def _fold(self, captured: ops.Captured, rows: ops.Rows, prefixes: Tensor, **how: Any) -> None:
        for index, (sign, heap) in enumerate(self._heaps.items()):
            heap.fold(captured, rows, prefixes, sign=sign, index=index, **how)

    def flush(self) -> None:
        """Merge what is pending, without waiting for the device."""
        for heap in self._heaps.values():
            heap.flush()

    def take_overflow(self) -> bool:
        """Return whether candidates were lost since the last call; waits for the device."""
        return any([heap.take_overflow() for heap in self._heaps.values()])  # ask them all

    def merge(self, other: "StreamingTopK") -> None:
        """Fold another reducer's entries in, from any device; commutative and associative.

        Raises:
            PyengineError: if the two differ in a setting.
        """
        settings.check_same(self._settings(), other._settings(), "merge reducers with")
        for sign, heap in self._heaps.items():
            heap.merge(other._heaps[sign])
        self._seen += other._seen

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state and the settings, on the CPU: any tensor file can hold them.

        `max` and `min`: packed entries, int64 [n_keys, k], and with `per="prefix"` the hashes of
        their prefixes, `max_prefixes` and `min_prefixes`; `seen`, int64: rows so far (they decide
        how often CUDA merges, never the result); `settings`, uint8: JSON.
        """
        state = {name: tensor.cpu().clone() for name, tensor in self._tensors().items()}
        state["seen"] = torch.tensor(self._seen)
        state["settings"] = settings.to_tensor(self._settings())
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the stream continues as if it had not stopped.

        `seen` and `settings` may be missing, if the state was put together from entries.

        Raises:
            PyengineError: if a tensor is missing or does not fit, or if the settings differ.
        """
        settings.check_state(self._settings(), self._tensors(), state)
        for sign, heap in self._heaps.items():
            heap.load({part: state[NAMES[sign] + part] for part in heap.parts})
        self._seen = int(state.get("seen", 0))

    def snapshot(self) -> dict[int, Any]:
        """Return what `restore` needs; on the CPU only the latest serves, until merge or load."""
        return {sign: heap.snapshot() for sign, heap in self._heaps.items()}

    def restore(self, snapshot: Mapping[int, Any]) -> None:
        """Go back to a snapshot, dropping whatever is pending."""
        for sign, heap in self._heaps.items():
            heap.restore(snapshot[sign])

    def compute(self, sign: str | None = None) -> TopK:
        """Return the entries of one direction (needed only after sign="both"), on the CPU.

        Raises:
            PyengineError: if this direction was not kept.
        """
        scores, ids = self.entries(sign or ("min" if self.sign == "min" else "max"))
        units = torch.where(ids >= 0, ids // self.max_positions, -1)
        positions = torch.where(ids >= 0, ids % self.max_positions, -1)
        return TopK(scores, units, positions.to(torch.int32))

    def entries(self, sign: str) -> tuple[Tensor, Tensor]:
        """Return (scores float32, packed ids int64), each [n_keys, k], on the CPU.

        Raises:
            PyengineError: if this direction was not kept.
        """
        if sign not in NAMES.values() or SIGNS[sign][0] not in self._heaps:
            raise PyengineError(f"this reducer keeps sign={self.sign!r}, not {sign!r}")
        direction = SIGNS[sign][0]
        scores, ids = ops.unpack(self._heaps[direction].tensors()[""].cpu())
        return scores * direction + 0.0, ids  # -0.0 counts as +0.0

    def _new_heap(self, device: torch.device | str) -> Heap:
        if self.per == "prefix":
            return PrefixHeap(self.n_keys, self.k, device=device, floor=self.floor)
        size = self.max_positions if self.per == "unit" else None
        return RowHeap(self.n_keys, self.k, device=device, floor=self.floor, unit_size=size)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            NAMES[sign] + part: tensor
            for sign, heap in self._heaps.items()
            for part, tensor in heap.tensors().items()
        }

    def _settings(self) -> dict[str, Any]:
        names = ("k", "n_keys", "max_positions", "per", "sign", "floor")
        return {name: getattr(self, name) for name in names} | self._competing.settings()

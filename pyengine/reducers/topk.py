"""StreamingTopK: the k highest (or lowest) activations of every key, over any stream."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine import ops

SIGNS = {"max": (1,), "min": (-1,), "both": (1, -1)}
MAX_IDS = 2**32 - 1
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

    Args:
        k: entries per key, 1 to 1024 (on CUDA beyond 128 a slower merge is used).
        n_keys: number of keys.
        max_positions: positions per unit in the packed id, unit * max_positions + position.
        per: `unit` (each unit competes with its best position, ties: the earliest) or `token`.
        sign: `max`, `min` or `both`.
        floor: only scores strictly above it compete; for minima, only those strictly below -floor.
        exclude: token ids that never compete, for `update(..., token_ids=...)`.
        device: where the heaps live; the activations must be there too.

    Raises:
        ValueError: for k, n_keys, per or sign out of range.
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
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= k <= MAX_K:
            raise ValueError(f"k must be from 1 to {MAX_K}, got {k}")
        if per not in ("unit", "token"):
            raise ValueError(f"per must be 'unit' or 'token', got {per!r}")
        if sign not in SIGNS:
            raise ValueError(f"sign must be 'max', 'min' or 'both', got {sign!r}")
        if n_keys < 0 or max_positions < 1:
            raise ValueError(f"bad sizes: n_keys={n_keys}, max_positions={max_positions}")
        self.k, self.n_keys, self.max_positions = k, n_keys, max_positions
        self.per, self.sign = per, sign
        self.signs = SIGNS[sign]
        self._states = {
            s: ops.TopKState(n_keys, k, device=device, floor=floor, per_unit=per == "unit")
            for s in self.signs
        }
        self._exclude = torch.tensor(list(exclude), dtype=torch.int64)
        self._seen = 0

    def update(
        self,
        acts: Tensor,
        unit_ids: Tensor,
        mask: Tensor | None = None,
        token_ids: Tensor | None = None,
        *,
        first_position: int = 0,
    ) -> None:
        """Fold a batch in.

        Args:
            acts: [B, T, n_keys], float32, float16 or bfloat16; NaN never competes.
            unit_ids: int64 [B]; a unit must not span two calls when `per="unit"`.
            mask: [B, T], bool or 0 and 1; False never competes. None: all compete.
            token_ids: int64 [B, T]; needed to leave out the tokens of `exclude`.
            first_position: the position within its unit of the first column of `acts`.

        Raises:
            ValueError: if a shape does not fit, or a packed id would reach 2**32.
        """
        if acts.dim() != 3 or acts.shape[2] != self.n_keys:
            raise ValueError(f"acts must be [B, T, {self.n_keys}], got {tuple(acts.shape)}")
        if unit_ids.shape != acts.shape[:1]:
            raise ValueError(f"unit_ids must be [{acts.shape[0]}], got {tuple(unit_ids.shape)}")
        for name, tensor in (("mask", mask), ("token_ids", token_ids)):
            if tensor is not None and tensor.shape != acts.shape[:2]:
                shape = tuple(tensor.shape)
                raise ValueError(f"{name} must be {tuple(acts.shape[:2])}, got {shape}")
        if len(self._exclude) and token_ids is None:
            raise ValueError("exclude needs token_ids, to know which positions to leave out")
        last = first_position + acts.shape[1]
        if last > self.max_positions:
            raise ValueError(f"position {last - 1} is beyond max_positions={self.max_positions}")
        positions = torch.arange(first_position, last, device=acts.device)
        ids = unit_ids.to(acts.device, torch.int64)[:, None] * self.max_positions + positions
        if ids.numel() and (int(ids.max()) >= MAX_IDS or int(ids.min()) < 0):
            raise ValueError("unit * max_positions + position must be from 0 to 2**32 - 2")
        if mask is not None:
            ids = torch.where(mask.to(ids.device, torch.bool), ids, -1)
        if token_ids is not None:
            ids = torch.where(torch.isin(token_ids, self._exclude.to(token_ids.device)), -1, ids)
        rows = ops.Rows(ids)
        captured = ops.ffn_capture(acts, rows, act="identity", signs=self.signs)
        self.fold(captured, rows, seen=self._seen)
        self._seen += ids.shape[0] if self.per == "unit" else ids.numel()
        self.flush()
        if self.take_overflow():
            self.fold(captured, rows, careful=True)
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

        `rows.ids` are the packed ids; `seen` tells how many rows these keys have seen before.
        After `take_overflow` has returned True the same batch must be folded with `careful=True`.
        """
        for sign, block_max in zip(self.signs, captured.block_max, strict=True):
            ops.topk_fold(
                self._states[sign],
                captured.values,
                block_max,
                rows,
                first_key=first_key,
                sign=sign,
                seen=seen,
                careful=careful,
            )

    def flush(self) -> None:
        """Merge what is pending, without waiting for the device."""
        for state in self._states.values():
            ops.topk_flush(state)

    def take_overflow(self) -> bool:
        """Return whether candidates were lost since the last call; waits for the device."""
        overflowed = False
        for state in self._states.values():
            overflowed |= bool(state.overflow.item())
            state.overflow.zero_()
        return overflowed

    def merge(self, other: "StreamingTopK") -> None:
        """Fold another reducer's entries in; commutative and associative.

        Raises:
            ValueError: if the two differ in k, keys, positions, `per` or `sign`.
        """
        mine, theirs = self._settings(), other._settings()
        if mine != theirs:
            raise ValueError(f"cannot merge reducers with different settings: {mine} and {theirs}")
        for sign, state in self._states.items():
            entries = torch.cat([state.top, other._states[sign].top.to(state.top.device)], dim=1)
            entries = entries.sort(dim=1, descending=True).values
            state.load(self._best(entries))
        self._seen += other._seen

    def _best(self, entries: Tensor) -> Tensor:
        """Keep the k best of sorted [n_keys, n] entries, one per id (per unit where so asked)."""
        owner = ops.unpack(entries)[1]
        if self.per == "unit":
            owner = torch.where(owner >= 0, owner // self.max_positions, owner)
        earlier = (owner[:, :, None] == owner[:, None, :]).tril(-1).any(dim=2)
        kept = torch.where(earlier, ops.EMPTY, entries)
        return kept.sort(dim=1, descending=True).values[:, : self.k].contiguous()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the packed entries, int64 [n_keys, k], per sign, on the CPU."""
        names = {1: "max", -1: "min"}
        return {names[sign]: state.top.cpu().clone() for sign, state in self._states.items()}

    def load_state_dict(self, entries: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: if a tensor is missing or has another shape or dtype.
        """
        for name, sign in (("max", 1), ("min", -1)):
            if sign not in self._states:
                continue
            top = entries.get(name)
            if top is None or top.shape != (self.n_keys, self.k) or top.dtype != torch.int64:
                raise ValueError(f"state {name!r} must be int64 [{self.n_keys}, {self.k}]")
            self._states[sign].load(top)

    def snapshot(self) -> dict[int, Tensor]:
        """Return a copy of the heaps on their device, for `restore`."""
        return {sign: state.top.clone() for sign, state in self._states.items()}

    def restore(self, snapshot: dict[int, Tensor]) -> None:
        """Go back to a snapshot, dropping whatever is pending."""
        for sign, top in snapshot.items():
            self._states[sign].load(top)

    def compute(self, sign: str | None = None) -> TopK:
        """Return the entries of one direction (needed only after sign="both"), on the CPU.

        Raises:
            ValueError: if this direction was not kept.
        """
        scores, ids = self.entries(sign or ("min" if self.sign == "min" else "max"))
        units = torch.where(ids >= 0, ids // self.max_positions, -1)
        positions = torch.where(ids >= 0, ids % self.max_positions, -1)
        return TopK(scores, units, positions.to(torch.int32))

    def entries(self, sign: str) -> tuple[Tensor, Tensor]:
        """Return (scores float32, packed ids int64), each [n_keys, k], on the CPU.

        Raises:
            ValueError: if this direction was not kept.
        """
        direction = SIGNS[sign][0]
        if sign == "both" or direction not in self._states:
            raise ValueError(f"this reducer keeps sign={self.sign!r}, not {sign!r}")
        scores, ids = ops.unpack(self._states[direction].top.cpu())
        return scores * direction + 0.0, ids  # -0.0 counts as +0.0

    def _settings(self) -> tuple[int, int, int, str, str]:
        return self.k, self.n_keys, self.max_positions, self.per, self.sign

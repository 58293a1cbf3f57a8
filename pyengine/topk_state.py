"""The state of a streaming top-k search."""

import math
from typing import Any

import torch
from torch import Tensor

from pyengine.backend import backend_for
from pyengine.errors import PyengineError
from pyengine.native_topk import NativeHeaps
from pyengine.packed import EMPTY, floor_key


class TopKState:
    """The k best packed keys of each of `n_keys` keys, on one device.

    Attributes:
        backend: `native` (C++, the CPU's), `torch`, `triton` or `reference`.
        native: where the native backend keeps everything, else None.
        overflow: int32 [1]; set when candidates were lost (never with `careful=True`): fold the
            same batch again with `careful=True`, then zero it. CUDA only.

    Args:
        n_keys: number of keys.
        k: how many to keep.
        device: where the state lives.
        floor: only scores > floor may enter.
        per_unit: each row of a batch competes with its best position only.
        capacity: pending candidates per key (CUDA), a power of two >= 32.
    """

    def __init__(
        self,
        n_keys: int,
        k: int,
        *,
        device: torch.device | str,
        floor: float | None = None,
        per_unit: bool = True,
        capacity: int | None = None,
    ) -> None:
        if k < 1:
            raise PyengineError(f"k must be at least 1, got {k}")
        if floor is not None and math.isnan(floor):
            raise PyengineError("floor must be a number, got nan")
        capacity = _next_power_of_2(max(512, 4 * k)) if capacity is None else capacity
        if capacity < 32 or capacity != _next_power_of_2(capacity):
            raise PyengineError(f"capacity must be a power of two from 32 on, got {capacity}")
        self.n_keys, self.k, self.per_unit = n_keys, k, per_unit
        self.backend = backend_for(torch.device(device), cpu="native")
        self.floor_key = EMPTY if floor is None else floor_key(floor)
        self.overflow = torch.zeros(1, dtype=torch.int32, device=device)
        self.capacity = capacity
        self.native: NativeHeaps | None = None
        if self.backend == "native":
            self.native = NativeHeaps(n_keys, k, self.floor_key)
            return
        self._top = torch.full((n_keys, k), EMPTY, dtype=torch.int64, device=device)
        self._threshold = torch.full((n_keys,), self.floor_key, dtype=torch.int64, device=device)
        if self.backend == "triton":
            self.candidates = self._top.new_empty(n_keys, self.capacity)
            self.counts = torch.zeros(n_keys, dtype=torch.int32, device=device)

    @property
    def top(self) -> Tensor:
        """int64 [n_keys, k], descending, EMPTY where fewer than k have been found.

        A copy where it is `native`, else what is updated in place.
        """
        return self._top if self.native is None else self.native.top()

    @property
    def threshold(self) -> Tensor:
        """int64 [n_keys]; a candidate enters if and only if its packed key is larger."""
        if self.native is None:
            return self._threshold
        return self.top[:, -1].clamp(min=self.floor_key)

    @property
    def needs_block_max(self) -> bool:
        """Whether folding needs block maxima of the activations."""
        return self.backend in ("torch", "triton")

    def load(self, top: Tensor) -> None:
        """Continue from a saved `top`, dropping pending candidates.

        Raises:
            PyengineError: if it has another shape or dtype.
        """
        shape = self.n_keys, self.k
        if top.shape != shape or top.dtype != torch.int64:
            raise PyengineError(f"top must be int64 {shape}, got {top.dtype} {tuple(top.shape)}")
        self.overflow.zero_()
        if self.native is not None:
            self.native.load(top)
            return
        self._top.copy_(top)
        self._threshold.copy_(self._top[:, -1].clamp(min=self.floor_key))
        if self.backend == "triton":
            self.counts.zero_()

    def snapshot(self) -> Any:
        """Return what `restore` needs, cheaper than a copy where it can; call it after a flush."""
        return self._top.clone() if self.native is None else self.native.mark()

    def restore(self, snapshot: Any) -> None:
        """Go back to the latest snapshot, as often as needed, dropping what is pending.

        Raises:
            ValueError: if it is not the latest, or `load` came after it (native backend only).
        """
        if self.native is None:
            self.load(snapshot)
        else:
            self.native.go_back(snapshot)


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()

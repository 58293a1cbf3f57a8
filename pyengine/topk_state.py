"""The state of a streaming top-k search."""

import math

import torch
from torch import Tensor

from pyengine.backend import backend_for
from pyengine.errors import PyengineError
from pyengine.packed import EMPTY, floor_key


class TopKState:
    """The k best packed keys of each of `n_keys` keys, on one device.

    Attributes:
        top: int64 [n_keys, k], descending, EMPTY where fewer than k have been found.
        threshold: int64 [n_keys]; a candidate enters if and only if its packed key is larger.
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
        self.backend = backend_for(torch.device(device))
        self.floor_key = EMPTY if floor is None else floor_key(floor)
        self.top = torch.full((n_keys, k), EMPTY, dtype=torch.int64, device=device)
        self.threshold = torch.full((n_keys,), self.floor_key, dtype=torch.int64, device=device)
        self.overflow = torch.zeros(1, dtype=torch.int32, device=device)
        self.capacity = capacity
        if self.backend == "triton":
            self.candidates = self.top.new_empty(n_keys, self.capacity)
            self.counts = torch.zeros(n_keys, dtype=torch.int32, device=device)

    def load(self, top: Tensor) -> None:
        """Continue from a saved `top`, dropping pending candidates.

        Raises:
            PyengineError: if it has another shape or dtype.
        """
        if top.shape != self.top.shape or top.dtype != torch.int64:
            wanted = f"int64 {tuple(self.top.shape)}"
            raise PyengineError(f"top must be {wanted}, got {top.dtype} {tuple(top.shape)}")
        self.top.copy_(top)
        self.threshold.copy_(self.top[:, -1].clamp(min=self.floor_key))
        self.overflow.zero_()
        if self.backend == "triton":
            self.counts.zero_()


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()

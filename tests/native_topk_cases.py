"""Streams for the C++ fold of the CPU, and its state beside the oracle's."""

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from pyengine import ops, reference

SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 0.0)


class Twin:
    """A native state and the oracle's, which must agree after every step."""

    def __init__(
        self, n_keys: int, k: int, *, floor: float | None = None, per_unit: bool = False
    ) -> None:
        self.state = ops.TopKState(n_keys, k, device="cpu", floor=floor, per_unit=per_unit)
        assert self.state.backend == "native"
        self.top = torch.full((n_keys, k), ops.EMPTY)

    def fold(self, values: Tensor, ids: Tensor, first_key: int = 0, sign: int = 1) -> None:
        rows = ops.Rows(ids)
        ops.topk_fold(self.state, values, None, rows, first_key=first_key, sign=sign)
        keys = slice(first_key, first_key + values.shape[2])
        self.top[keys] = reference.topk_fold(
            self.top[keys],
            values,
            ids,
            sign=sign,
            per_unit=self.state.per_unit,
            floor_key=self.state.floor_key,
        )

    def check(self) -> None:
        assert torch.equal(self.state.top, self.top)
        lowest = self.top[:, -1].clamp(min=self.state.floor_key)
        assert torch.equal(self.state.threshold, lowest)


def batch(chance: np.random.Generator, n_keys: int, ties: bool, wild: bool, base: int) -> Any:
    """Return values [B, T, n_keys] and ids that begin at `base`, with holes."""
    shape = int(chance.integers(0, 5)), int(chance.integers(0, 40)), n_keys
    values = chance.standard_normal(shape).astype(np.float32)
    if ties:
        values = np.maximum(np.round(values * 2) / 2, 0)  # a ReLU's, mostly zeros
    if wild:
        for special in SPECIAL:
            values[chance.random(shape) < 0.05] = special
    ids = np.arange(base, base + shape[0] * shape[1]).reshape(shape[:2])
    ids[chance.random(ids.shape) < 0.2] = -1
    return torch.from_numpy(values), torch.from_numpy(ids)


STREAMS = {
    "seed": st.integers(0, 10**6),
    "n_keys": st.sampled_from([1, 3, 63, 64, 65, 97]),
    "k": st.sampled_from([1, 2, 7, 64, 200]),
    "floor": st.sampled_from([None, None, 0.0, -0.5, math.inf, -math.inf]),
    "per_unit": st.booleans(),
    "sign": st.sampled_from([1, -1]),
    "ties": st.booleans(),
    "wild": st.booleans(),
}

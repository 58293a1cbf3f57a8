"""Capture and streaming top-k: Triton on CUDA, torch on the CPU, one contract.

`PYENGINE_BACKEND=reference|torch|triton` overrides the choice; nothing falls back silently.

Example, the whole life of a search for the k largest activations of every FFN dimension::

    state = TopKState(d_ff, k, device=pre.device)
    captured = ffn_capture(pre, rows, act="gelu_tanh")
    topk_fold(state, captured.values, captured.block_max[0], rows)
    topk_flush(state)
    scores, ids = unpack(state.top)
"""

import math
import os
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine import reference, torch_ops
from pyengine.errors import PyengineError
from pyengine.packed import EMPTY, floor_key, pack, unpack
from pyengine.rows import Rows, Span

__all__ = [
    "EMPTY",
    "Captured",
    "Rows",
    "Span",
    "TopKState",
    "ffn_capture",
    "fused_activations",
    "pack",
    "topk_flush",
    "topk_fold",
    "unpack",
]

ACTIVATIONS = ("identity", "relu", "gelu", "gelu_tanh", "silu", "quick_gelu")
BACKENDS = ("reference", "torch", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Captured(NamedTuple):
    """What `ffn_capture` returns; `block_max` only makes sense to `topk_fold`."""

    out: Tensor
    values: Tensor
    block_max: Tensor
    n_nan: Tensor


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
        self.backend = _backend(torch.device(device))
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


def fused_activations() -> tuple[str, ...]:
    """Return the activations that `ffn_capture` knows."""
    return ACTIVATIONS


def ffn_capture(
    pre: Tensor,
    rows: Rows,
    *,
    act: str,
    up: Tensor | None = None,
    value: str = "post",
    signs: tuple[int, ...] = (1,),
    reuse: bool = False,
) -> Captured:
    """Apply the FFN's activation and find, in the same pass, where large values can be.

    The output is ``act(pre)``, or ``act(pre) * up`` for a gated FFN.

    Args:
        pre: [B, T, F], float32 / float16 / bfloat16, any strides: input of the activation.
        rows: which positions compete. Values elsewhere are computed but never ranked.
        act: one of `fused_activations()`; "identity" without `up` copies nothing.
        up: [B, T, F], the linear half of a gated FFN.
        value: what is ranked: "post", the output, or "pre", the input.
        signs: +1 for maxima, -1 for minima, or both.
        reuse: `pre` may be overwritten (used on the CPU, not with value="pre").

    Returns:
        out [B, T, F] in the dtype of `pre`; values [B, T, F], the ranked tensor (one of the two);
        block_max float32 [n_signs, n_blocks, F], the largest sign * value among the competing
        positions of a block, NaN left out (-inf if none); n_nan int64 [1], the number of NaN
        among the competing values.

    Oracle: `pyengine.reference.ffn_capture`.
    """
    _check_capture(pre, rows, act, up, value, signs)
    backend = _backend(pre.device)
    if backend == "reference":
        return Captured(*reference.ffn_capture(pre, rows.ids, act, up, value, signs))
    if backend == "torch":
        return Captured(*torch_ops.ffn_capture(pre, rows, act, up, value, signs, reuse))
    from pyengine.kernels.ffn_capture import ffn_capture as kernel

    return Captured(*kernel(pre, rows.ids, act=act, up=up, value=value, signs=signs))


def topk_fold(
    state: TopKState,
    values: Tensor,
    block_max: Tensor,
    rows: Rows,
    *,
    first_key: int = 0,
    sign: int = 1,
    seen: int = 0,
    careful: bool = False,
) -> None:
    """Fold sign * values, [B, T, F], into the keys [first_key, first_key + F) of `state`.

    The result is the unique top-k under (score descending, id ascending), whatever the order
    and the cut of the batches. -inf and +inf are scores like others, NaN never is. Folding a
    batch twice changes nothing. With `state.per_unit` each row contributes its best position
    only (ties: the lower id), so a unit must not span batches.

    Args:
        state: updated in place; on CUDA complete after `topk_flush`.
        values: `Captured.values`.
        block_max: one sign's [n_blocks, F] of `Captured.block_max`.
        rows: the same as given to `ffn_capture`.
        first_key: the key of the first column.
        sign: +1 ranks values, -1 ranks -values.
        seen: how many competitors (units, or positions without `per_unit`) went into these keys
            before. CUDA only: decides how often candidates are merged, never the result.
        careful: cannot overflow, at the price of more launches. CUDA only.

    Oracle: `pyengine.reference.topk_fold`.
    """
    _check_fold(state, values, rows, first_key, sign)
    if not values.numel():
        return
    if state.backend == "reference":
        keys = slice(first_key, first_key + values.shape[2])
        options = {"sign": sign, "per_unit": state.per_unit, "floor_key": state.floor_key}
        top = reference.topk_fold(state.top[keys], values, rows.ids, **options)
        state.top[keys] = top
        state.threshold[keys] = top[:, -1].clamp(min=state.floor_key)
    elif state.backend == "torch":
        torch_ops.topk_fold(state, values, block_max, rows, first_key=first_key, sign=sign)
    else:
        from pyengine import triton_ops

        options = {"first_key": first_key, "sign": sign, "seen": seen, "careful": careful}
        triton_ops.topk_fold(state, values, block_max, rows.ids, **options)


def topk_flush(state: TopKState) -> None:
    """Merge what is pending (CUDA: one launch for all keys; CPU: nothing to do)."""
    if state.backend == "triton":
        from pyengine import triton_ops

        triton_ops.merge(state)


def _backend(device: torch.device) -> str:
    """Return the backend for tensors on `device`."""
    chosen = os.environ.get("PYENGINE_BACKEND")
    if chosen is None:
        default = {"cpu": "torch", "cuda": "triton"}.get(device.type)
        if default is None:
            raise PyengineError(
                f"no kernels for device '{device.type}': use cpu or cuda, "
                "or set PYENGINE_BACKEND=torch"
            )
        return default
    if chosen not in BACKENDS:
        raise PyengineError(
            f"PYENGINE_BACKEND must be one of {', '.join(BACKENDS)}, got '{chosen}'"
        )
    if chosen == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise PyengineError(
            f"PYENGINE_BACKEND=triton needs CUDA tensors, got '{device.type}' "
            "(or TRITON_INTERPRET=1, for tests)"
        )
    return chosen


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _check_capture(
    pre: Tensor, rows: Rows, act: str, up: Tensor | None, value: str, signs: tuple[int, ...]
) -> None:
    if pre.ndim != 3 or pre.dtype not in DTYPES or pre.shape[:2] != rows.ids.shape:
        shape = ", ".join(map(str, rows.ids.shape))
        wanted = f"float32, float16 or bfloat16 [{shape}, F]"
        raise ValueError(f"pre must be {wanted}, got {pre.dtype} {tuple(pre.shape)}")
    if up is not None and (up.shape != pre.shape or up.dtype != pre.dtype):
        raise ValueError(f"up must be {pre.dtype} {tuple(pre.shape)}, got {tuple(up.shape)}")
    if act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if value not in ("post", "pre"):
        raise ValueError(f"value must be 'post' or 'pre', got {value!r}")
    if signs not in ((1,), (-1,), (1, -1), (-1, 1)):
        raise ValueError(f"signs must be (1,), (-1,) or both, got {signs}")


def _check_fold(state: TopKState, values: Tensor, rows: Rows, first_key: int, sign: int) -> None:
    if values.ndim != 3 or values.shape[:2] != rows.ids.shape:
        wanted = f"[{', '.join(map(str, rows.ids.shape))}, F]"
        raise ValueError(f"values must be {wanted}, got {tuple(values.shape)}")
    if not 0 <= first_key <= state.n_keys - values.shape[2]:
        last = first_key + values.shape[2]
        raise ValueError(f"keys [{first_key}, {last}) must lie in [0, {state.n_keys})")
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign}")

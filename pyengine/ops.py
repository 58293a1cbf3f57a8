"""Capture, streaming top-k, projection, paths: Triton on CUDA; torch, C++ on the CPU; one contract.

`PYENGINE_BACKEND=reference|torch|triton` overrides the choice; nothing falls back silently.

Example, the whole life of a search for the k largest activations of every FFN dimension::

    state = TopKState(d_ff, k, device=pre.device)
    captured = ffn_capture(pre, rows, act="gelu_tanh")
    topk_fold(state, captured.values, captured.block_max[0], rows)
    topk_flush(state)
    scores, ids = unpack(state.top)
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from pyengine import reference, torch_ops, torch_topk
from pyengine.backend import backend_for
from pyengine.packed import EMPTY, pack, unpack
from pyengine.paths import path_points, path_sums
from pyengine.rows import Rows, Span
from pyengine.topk_state import TopKState
from pyengine.vocab_project import Projection, vocab_project

__all__ = [
    "EMPTY",
    "Captured",
    "Projection",
    "Rows",
    "Span",
    "TopKState",
    "ffn_capture",
    "fused_activations",
    "pack",
    "path_points",
    "path_sums",
    "topk_flush",
    "topk_fold",
    "unpack",
    "vocab_project",
]

ACTIVATIONS = ("identity", "relu", "gelu", "gelu_tanh", "silu", "quick_gelu")
Lazy = Tensor | Callable[[], Tensor]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Captured:
    """What `ffn_capture` returns; functions are called once asked for: before `values` change."""

    def __init__(
        self, out: Tensor, values: Tensor, maxima: Lazy, n_nan: Lazy, rows: Rows | None = None
    ) -> None:
        self.out, self.values = out, values
        self._rows, self._block_max, self._n_nan = rows, maxima, n_nan

    @cached_property
    def block_max(self) -> Tensor:
        """Only makes sense to `topk_fold`."""
        return _computed(self._block_max)

    @cached_property
    def n_nan(self) -> Tensor:
        """Number of NaN among the competing values, int64 [1]."""
        return _computed(self._n_nan)

    def note_nan(self, n_nan: int | None, rows: Rows) -> None:
        """Take a number that `topk_fold` counted of these values, so that it need not be again."""
        if n_nan is not None and rows is self._rows:
            self.n_nan = torch.tensor([n_nan])


@torch.no_grad()
def _computed(value: Lazy) -> Tensor:
    return value if isinstance(value, Tensor) else value()


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

    The output is ``act(pre)``, or ``act(pre) * up`` for a gated FFN. Not differentiable: an
    activation to be applied is refused while gradients are recorded.

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
        among the competing values. On the CPU the last two cost nothing until they are asked for.

    Oracle: `pyengine.reference.ffn_capture`.
    """
    _check_capture(pre, rows, act, up, value, signs)
    with torch.no_grad():
        return _capture(pre, rows, act, up, value, signs, reuse)


def _capture(
    pre: Tensor,
    rows: Rows,
    act: str,
    up: Tensor | None,
    value: str,
    signs: tuple[int, ...],
    reuse: bool,
) -> Captured:
    backend = backend_for(pre.device, cpu="native")
    if backend == "reference":
        return Captured(*reference.ffn_capture(pre, rows.ids, act, up, value, signs), rows)
    if backend in ("native", "torch"):
        native, reuse = backend == "native", reuse and value != "pre"
        return Captured(*torch_ops.capture(pre, rows, act, up, value, signs, reuse, native), rows)
    from pyengine.kernels.ffn_capture import ffn_capture as kernel

    return Captured(*kernel(pre, rows.ids, act=act, up=up, value=value, signs=signs), rows)


@torch.no_grad()
def topk_fold(
    state: TopKState,
    values: Tensor,
    block_max: Tensor | None,
    rows: Rows,
    *,
    first_key: int = 0,
    sign: int = 1,
    seen: int = 0,
    careful: bool = False,
) -> int | None:
    """Fold sign * values, [B, T, F], into the keys [first_key, first_key + F) of `state`.

    The result is the unique top-k under (score descending, id ascending), whatever the order
    and the cut of the batches. -inf and +inf are scores like others, NaN never is. Folding a
    batch twice changes nothing. With `state.per_unit` each row contributes its best position
    only (ties: the lower id), so a unit must not span batches.

    Args:
        state: updated in place; on CUDA complete after `topk_flush`.
        values: `Captured.values`.
        block_max: one sign's [n_blocks, F] of `Captured.block_max`; None unless the state says that
            it `needs_block_max`.
        rows: the same as given to `ffn_capture`.
        first_key: the key of the first column.
        sign: +1 ranks values, -1 ranks -values.
        seen: how many competitors (units, or positions without `per_unit`) went into these keys
            before. CUDA only: decides how often candidates are merged, never the result.
        careful: cannot overflow, at the price of more launches. CUDA only.

    Returns the number of NaN among the competing values where that costs nothing (C++), else None.

    Oracle: `pyengine.reference.topk_fold`.
    """
    _check_fold(state, values, rows, first_key, sign)
    if not values.numel():
        return None
    if (native := state.native) is not None:
        return native.fold(values, rows, first_key=first_key, sign=sign, per_unit=state.per_unit)
    if state.backend == "reference":
        keys = slice(first_key, first_key + values.shape[2])
        top = state.top[keys] = reference.topk_fold(
            state.top[keys],
            values,
            rows.ids,
            sign=sign,
            per_unit=state.per_unit,
            floor_key=state.floor_key,
        )
        state.threshold[keys] = top[:, -1].clamp(min=state.floor_key)
    elif block_max is None:
        raise ValueError(f"the {state.backend} backend needs block_max")
    elif state.backend == "torch":
        torch_topk.topk_fold(state, values, block_max, rows, first_key=first_key, sign=sign)
    else:
        from pyengine import triton_ops

        triton_ops.topk_fold(
            state,
            values,
            block_max,
            rows.ids,
            first_key=first_key,
            sign=sign,
            seen=seen,
            careful=careful,
        )
    return None


def topk_flush(state: TopKState) -> None:
    """Merge what is pending (CUDA: one launch for all keys; CPU: nothing to do)."""
    if state.backend == "triton":
        from pyengine import triton_ops

        triton_ops.merge(state)


def _check_capture(
    pre: Tensor, rows: Rows, act: str, up: Tensor | None, value: str, signs: tuple[int, ...]
) -> None:
    if pre.ndim != 3 or pre.dtype not in DTYPES or pre.shape[:2] != rows.ids.shape:
        wanted = f"float32, float16 or bfloat16 [{', '.join(map(str, rows.ids.shape))}, F]"
        raise ValueError(f"pre must be {wanted}, got {pre.dtype} {tuple(pre.shape)}")
    if up is not None and (up.shape != pre.shape or up.dtype != pre.dtype):
        raise ValueError(f"up must be {pre.dtype} {tuple(pre.shape)}, got {tuple(up.shape)}")
    if act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if (act != "identity" or up is not None) and pre.requires_grad and torch.is_grad_enabled():
        raise ValueError("pre requires grad, but this is not differentiable: use torch.no_grad()")
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

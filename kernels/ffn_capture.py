"""FFN activation and one maximum per (32 rows, dim) in a single pass.

::

    out           = act(pre)  or  act(pre) * up
    block_max[s, i, f] = max over the competing rows r of block i of sign_s * value[r, f]

float32 arithmetic, rounded to the model's dtype, and exactly that number is ranked. No threshold
and no candidate list here: inlined, they cost 3 to 5 times the registers. NaN never enters a
maximum and is counted. Bytes: read `pre` (and `up`), write `out`, plus 1/32 of a float32 `out`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.kernels._launch import (
    BLOCK_ROWS,
    FFN_CAPTURE,
    FFN_CAPTURE_WIDE,
    check_activations,
    on_its_device,
    tl_activation,
    tl_row_offset,
)


@triton.jit(do_not_specialize=["N", "T"])
def _ffn_capture_kernel(
    pre_ptr,  # [B, T, F]
    up_ptr,  # [B, T, F]; read if GATED
    ids_ptr,  # [B * T] int64
    out_ptr,  # [B * T, F]; written if STORE
    block_max_ptr,  # [n_signs, n_blocks, F] float32
    n_nan_ptr,  # [1] int64
    N,
    T,
    F,
    stride_pb,
    stride_pt,
    stride_pf,
    stride_ub,
    stride_ut,
    stride_uf,
    ACT: tl.constexpr,
    GATED: tl.constexpr,
    STORE: tl.constexpr,
    RANK_PRE: tl.constexpr,
    MAX: tl.constexpr,
    MIN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    block = tl.program_id(0)
    row = block * BLOCK_R + tl.arange(0, BLOCK_R)
    col = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    row_ok = row < N
    col_ok = col < F
    ok = row_ok[:, None] & col_ok[None, :]
    column = col.to(tl.int64)
    at = tl_row_offset(row, T, stride_pb, stride_pt)[:, None] + (column * stride_pf)[None, :]
    x = tl.load(pre_ptr + at, mask=ok, other=0.0)
    value = x.to(tl.float32)
    if STORE:
        a = tl_activation(value, ACT)
        if GATED:
            at = (
                tl_row_offset(row, T, stride_ub, stride_ut)[:, None] + (column * stride_uf)[None, :]
            )
            a *= tl.load(up_ptr + at, mask=ok, other=0.0).to(tl.float32)
        a = a.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + row.to(tl.int64)[:, None] * F + col[None, :], a, mask=ok)
        if not RANK_PRE:
            value = a.to(tl.float32)

    competes = (tl.load(ids_ptr + row, mask=row_ok, other=-1) >= 0)[:, None] & ok
    nan = competes & (value != value)
    n_nan = tl.sum(tl.sum(nan.to(tl.int32), 1), 0)
    if n_nan > 0:
        tl.atomic_add(n_nan_ptr, n_nan.to(tl.int64), sem="relaxed")
    legal = competes & (value == value)
    to = block_max_ptr + block.to(tl.int64) * F + col
    if MAX:
        tl.store(to, tl.max(tl.where(legal, value, float("-inf")), 0), mask=col_ok)
    if MIN:
        if MAX:
            to += tl.num_programs(0).to(tl.int64) * F
        tl.store(to, tl.max(tl.where(legal, -value, float("-inf")), 0), mask=col_ok)


@on_its_device
def ffn_capture(
    pre: Tensor,
    ids: Tensor,
    *,
    act: str,
    up: Tensor | None = None,
    value: str = "post",
    signs: tuple[int, ...] = (1,),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (out, values, block_max, n_nan) as `pyengine.ops.ffn_capture` defines them.

    Args:
        pre: [B, T, F] float32 / float16 / bfloat16, any strides.
        ids: int64 [B, T], contiguous; -1 = does not compete.
        act: the activation; "identity" without `up` writes no output.
        up: [B, T, F], multiplied with the activation.
        value: "post" or "pre": which tensor is ranked.
        signs: (1,), (-1,), (1, -1) or (-1, 1).

    Oracle: `pyengine.reference.ffn_capture`.
    """
    check_activations("pre", pre, ids)
    if up is not None:
        check_activations("up", up, ids)
    d_ff = pre.shape[2]
    n_rows = ids.numel()
    n_blocks = triton.cdiv(n_rows, BLOCK_ROWS)
    store = act != "identity" or up is not None
    out = torch.empty(pre.shape, dtype=pre.dtype, device=pre.device) if store else pre
    block_max = torch.empty(len(set(signs)), n_blocks, d_ff, device=pre.device)
    n_nan = torch.zeros(1, dtype=torch.int64, device=pre.device)
    gate = pre if up is None else up
    launch = FFN_CAPTURE_WIDE if up is not None or len(signs) == 2 else FFN_CAPTURE
    if pre.numel():
        grid = (n_blocks, triton.cdiv(d_ff, launch.block_f))
        _ffn_capture_kernel[grid](
            pre,
            gate,
            ids,
            out,
            block_max,
            n_nan,
            n_rows,
            ids.shape[1],
            d_ff,
            *pre.stride(),
            *gate.stride(),
            ACT=act,
            GATED=up is not None,
            STORE=store,
            RANK_PRE=value == "pre",
            MAX=1 in signs,
            MIN=-1 in signs,
            BLOCK_R=BLOCK_ROWS,
            BLOCK_F=launch.block_f,
            num_warps=launch.num_warps,
        )
    if signs[0] == -1 and len(block_max) == 2:
        block_max = block_max.flip(0)
    return out, pre if value == "pre" else out, block_max, n_nan

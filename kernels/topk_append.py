"""Append the candidates of a captured batch to the pending list of each key.

A program looks at the maxima of GROUP blocks and almost always leaves: after warm-up about
k ln(N / k) of N positions ever beat a threshold. Only then are activations read again. The
comparison that decides is exact, on packed (score, id) keys; -inf and +inf are legal, NaN never
enters. The order inside a list is arbitrary, what the merge makes of it is not. Bytes: one
float32 per (block, key), one int64 per (GROUP, key).
"""

import triton
import triton.language as tl
from torch import Tensor

from pyengine.kernels._launch import (
    BLOCK_ROWS,
    EMPTY,
    TOPK_APPEND,
    TOPK_APPEND_UNIT,
    check_activations,
    on_its_device,
    tl_pack,
    tl_row_offset,
    tl_score,
)

GROUP = 16  # blocks or rows per program


@triton.jit(do_not_specialize=["first", "last", "N", "T"])
def _topk_append_kernel(
    values_ptr,  # [B, T, F]
    block_max_ptr,  # [n_blocks, F] float32, of SIGN * values
    ids_ptr,  # [B * T] int64
    threshold_ptr,  # [F] int64
    candidates_ptr,  # [F, CAPACITY] int64
    counts_ptr,  # [F] int32
    first,  # blocks [first, last) of this launch
    last,
    N,
    T,
    F,
    CAPACITY,
    stride_b,
    stride_t,
    stride_f,
    SIGN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Every competing position is a candidate; a program takes blocks [first, first + GROUP)."""
    first += tl.program_id(0) * GROUP
    i = tl.arange(0, GROUP)
    col = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    threshold = tl.load(threshold_ptr + col, mask=col < F, other=0)
    ok = (first + i < last)[:, None] & (col < F)[None, :]
    at = block_max_ptr + (first + i).to(tl.int64)[:, None] * F + col[None, :]
    maximum = tl.load(at, mask=ok, other=float("-inf"))
    near = (ok & (maximum >= tl_score(threshold)[None, :])).to(tl.int32)
    todo = tl.sum(tl.max(near, 1) << i, 0)  # one bit per block
    for b in range(0, GROUP):
        if (todo >> b) & 1:
            row = (first + b) * BLOCK_R + tl.arange(0, BLOCK_R)
            ids = tl.load(ids_ptr + row, mask=row < N, other=-1)
            lowest = tl.min(tl.where(ids >= 0, ids, 0xFFFFFFFF), 0)
            from_row = block_max_ptr + (first + b).to(tl.int64) * F
            here = tl.load(from_row + col, mask=col < F, other=float("-inf"))
            # Settles massive ties without reading the activations again.
            hit = (col < F) & (tl_pack(here, lowest) > threshold)
            competes = (ids >= 0)[:, None] & hit[None, :]
            offset = tl_row_offset(row, T, stride_b, stride_t)[:, None]
            offset += (col.to(tl.int64) * stride_f)[None, :]
            score = SIGN * tl.load(values_ptr + offset, mask=competes, other=0.0).to(tl.float32)
            key = tl_pack(score, ids[:, None])
            enters = competes & (key > threshold[None, :]) & (score == score)
            n = enters.to(tl.int32)
            count = tl.sum(n, 0)
            base = tl.atomic_add(counts_ptr + col, count, mask=count > 0, sem="relaxed")
            slot = base[None, :] + tl.cumsum(n, 0) - n
            to = candidates_ptr + col.to(tl.int64)[None, :] * CAPACITY + slot
            tl.store(to, key, mask=enters & (slot < CAPACITY))


@triton.jit(do_not_specialize=["first", "last", "N", "T"])
def _topk_append_unit_kernel(
    values_ptr,  # [B, T, F]
    block_max_ptr,  # [n_blocks, F] float32, of SIGN * values
    ids_ptr,  # [B * T] int64
    threshold_ptr,  # [F] int64
    candidates_ptr,  # [F, CAPACITY] int64
    counts_ptr,  # [F] int32
    first,  # batch rows [first, last) of this launch
    last,
    N,
    T,
    F,
    CAPACITY,
    stride_b,
    stride_t,
    stride_f,
    SIGN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """A row is one unit and offers its best position; a program takes [first, first + GROUP)."""
    first += tl.program_id(0) * GROUP
    i = tl.arange(0, GROUP)
    col = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    threshold = tl.load(threshold_ptr + col, mask=col < F, other=0)
    ok = (first + i < last)[:, None] & (col < F)[None, :]
    block = (first + i) * T // BLOCK_R  # first of the blocks that hold parts of the row
    end = ((first + i + 1) * T - 1) // BLOCK_R
    maximum = tl.full((GROUP, BLOCK_F), float("-inf"), tl.float32)
    for _ in range(0, (T - 1) // BLOCK_R + 2):
        at = block_max_ptr + block.to(tl.int64)[:, None] * F + col[None, :]
        inside = ok & (block <= end)[:, None]
        maximum = tl.maximum(maximum, tl.load(at, mask=inside, other=float("-inf")))
        block += 1
    near = (ok & (maximum >= tl_score(threshold)[None, :])).to(tl.int32)
    todo = tl.sum(tl.max(near, 1) << i, 0)  # one bit per row
    for b in range(0, GROUP):
        if (todo >> b) & 1:
            row = tl.full((1,), first + b, tl.int64)
            lowest = tl.full((BLOCK_R,), 0xFFFFFFFF, tl.int64)
            for start in range(0, T, BLOCK_R):
                t = start + tl.arange(0, BLOCK_R)
                ids = tl.load(ids_ptr + row * T + t, mask=t < T, other=-1)
                lowest = tl.minimum(lowest, tl.where(ids >= 0, ids, 0xFFFFFFFF))
            here = tl.full((BLOCK_F,), float("-inf"), tl.float32)
            from_block = (first + b) * T // BLOCK_R
            from_row = block_max_ptr + from_block.to(tl.int64) * F
            for _ in range(from_block, ((first + b + 1) * T - 1) // BLOCK_R + 1):
                here = tl.maximum(here, tl.load(from_row + col, mask=col < F, other=float("-inf")))
                from_row += F
            hit = (col < F) & (tl_pack(here, tl.min(lowest, 0)) > threshold)
            best = threshold
            for start in range(0, T, BLOCK_R):
                t = start + tl.arange(0, BLOCK_R)
                ids = tl.load(ids_ptr + row * T + t, mask=t < T, other=-1)
                competes = (ids >= 0)[:, None] & hit[None, :]
                offset = (row * stride_b + t.to(tl.int64) * stride_t)[:, None]
                offset += (col.to(tl.int64) * stride_f)[None, :]
                score = SIGN * tl.load(values_ptr + offset, mask=competes, other=0.0).to(tl.float32)
                competes &= score == score
                key = tl.where(competes, tl_pack(score, ids[:, None]), EMPTY)
                best = tl.maximum(best, tl.max(key, 0))
            enters = best > threshold
            slot = tl.atomic_add(counts_ptr + col, 1, mask=enters, sem="relaxed")
            to = candidates_ptr + col.to(tl.int64) * CAPACITY + slot
            tl.store(to, best, mask=enters & (slot < CAPACITY))


@on_its_device
def topk_append(
    values: Tensor,
    block_max: Tensor,
    ids: Tensor,
    threshold: Tensor,
    candidates: Tensor,
    counts: Tensor,
    *,
    sign: int,
    per_unit: bool,
    first: int,
    last: int,
) -> None:
    """Append to `candidates` every key of [first, last) that is above its `threshold`.

    Args:
        values, ids, block_max: as captured; block_max contiguous, of sign * values.
        threshold: int64 [F].
        candidates: int64 [F, capacity], contiguous; what does not fit is only counted.
        counts: int32 [F], raised by the number of candidates found.
        per_unit: [first, last) are batch rows, each offers its best position; else they are
            blocks of 32 flattened rows, and every competing position is offered.

    Oracle: `pyengine.reference.topk_fold`.
    """
    check_activations("values", values, ids)
    d_ff = values.shape[2]
    n_blocks = triton.cdiv(ids.numel(), BLOCK_ROWS)
    if block_max.shape != (n_blocks, d_ff) or not block_max.is_contiguous():
        wanted = f"contiguous [{n_blocks}, {d_ff}]"
        raise ValueError(f"block_max must be {wanted}, got {tuple(block_max.shape)}")
    launch = TOPK_APPEND_UNIT if per_unit else TOPK_APPEND
    kernel = _topk_append_unit_kernel if per_unit else _topk_append_kernel
    pointers = (values, block_max, ids, threshold, candidates, counts)
    sizes = (first, last, ids.numel(), ids.shape[1], d_ff, candidates.shape[1])
    kernel[(triton.cdiv(last - first, GROUP), triton.cdiv(d_ff, launch.block_f))](
        *pointers,
        *sizes,
        *values.stride(),
        SIGN=sign,
        GROUP=GROUP,
        BLOCK_R=BLOCK_ROWS,
        BLOCK_F=launch.block_f,
        num_warps=launch.num_warps,
    )

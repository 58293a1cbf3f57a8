"""Merge the pending candidates of every key into its top-k, without asking the host.

One program per key, which leaves at once if nothing is pending. Equal keys collapse, so a batch
may be folded twice. A key with more candidates than fit is left alone and reported: its batch
has to be folded again. Bytes: 8 per pending candidate, 16 k per key that has any.
"""

import triton
import triton.language as tl
from torch import Tensor

from pyengine.kernels._launch import EMPTY, TOPK_MERGE, TOPK_MERGE_WIDE, on_its_device

MAX_K = 128  # kept in registers


@triton.jit
def _topk_merge_kernel(
    top_ptr,  # [n_keys, K] int64, descending
    threshold_ptr,  # [n_keys] int64
    candidates_ptr,  # [n_keys, CAPACITY] int64
    counts_ptr,  # [n_keys] int32
    overflow_ptr,  # [1] int32
    floor_key,
    CAPACITY,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    key = tl.program_id(0).to(tl.int64)
    count = tl.load(counts_ptr + key)
    if count > CAPACITY:
        tl.store(overflow_ptr, 1)
        tl.store(counts_ptr + key, 0)
    elif count > 0:
        i = tl.arange(0, BLOCK_K)
        j = tl.arange(0, 2 * BLOCK_K)
        best = tl.load(top_ptr + key * K + i, mask=i < K, other=EMPTY)
        for start in range(0, count, BLOCK_K):
            at = start + i
            new = tl.load(candidates_ptr + key * CAPACITY + at, mask=at < count, other=EMPTY)
            pool = tl.reshape(tl.join(best, new), (2 * BLOCK_K,))
            pool = tl.sort(pool, descending=True)
            previous = tl.gather(pool, tl.maximum(j - 1, 0), 0)
            repeated = (pool == previous) & (j > 0) & (pool != EMPTY)
            pool = tl.where(repeated, EMPTY, pool)
            best = tl.topk(pool, BLOCK_K)
            best = tl.where(i < K, best, EMPTY)
        tl.store(top_ptr + key * K + i, best, mask=i < K)
        kth = tl.max(tl.where(i == K - 1, best, EMPTY), 0)
        tl.store(threshold_ptr + key, tl.maximum(kth, floor_key))
        tl.store(counts_ptr + key, 0)


@on_its_device
def topk_merge(
    top: Tensor,
    threshold: Tensor,
    candidates: Tensor,
    counts: Tensor,
    overflow: Tensor,
    *,
    floor_key: int,
) -> None:
    """Merge `counts` pending candidates per key into `top`, and zero `counts`.

    Args:
        top: int64 [n_keys, k], contiguous, descending, k <= 128; updated.
        threshold: int64 [n_keys]; becomes max(k-th key, floor_key) where anything was pending.
        candidates: int64 [n_keys, capacity], contiguous.
        counts: int32 [n_keys]; more than capacity leaves the key's top alone and sets overflow.
        overflow: int32 [1].
        floor_key: the key that a candidate has to beat; EMPTY for no floor.

    Oracle: `pyengine.reference.best_distinct`.
    """
    n_keys, k = top.shape
    if k > MAX_K:
        raise ValueError(f"k must be at most {MAX_K}, got {k}")
    if not top.is_contiguous() or not candidates.is_contiguous():
        raise ValueError("top and candidates must be contiguous")
    launch = TOPK_MERGE if k <= 64 else TOPK_MERGE_WIDE
    if n_keys:
        _topk_merge_kernel[(n_keys,)](
            top,
            threshold,
            candidates,
            counts,
            overflow,
            floor_key,
            candidates.shape[1],
            K=k,
            BLOCK_K=triton.next_power_of_2(k),
            num_warps=launch.num_warps,
        )

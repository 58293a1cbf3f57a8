"""Second pass over the vocabulary: the same tiles, with the same bits, compared and copied.

::

    ranks[t, r] = #{v: z[r, v] > z[r, target]} + #{v < target: z[r, v] = z[r, target]}

and the tiles that hold a row's best tokens, chosen from the first pass, are stored; nothing else
of the logits is. Integer sums: the order in which programs add does not matter.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.kernels._launch import on_its_device, vocab_arguments, vocab_launch
from pyengine.kernels._vocab_tile import tl_vocab_tile

PACK = tl.constexpr(4)  # targets whose counts share an integer, a byte each: one sum for all


@triton.jit(do_not_specialize=["R", "V", "N"])
def _vocab_rank_kernel(
    x_ptr,  # [R, D]
    weight_ptr,  # [V, D]
    bias_ptr,  # [V]; read if HAS_BIAS
    targets_ptr,  # [N, R] int32
    target_logits_ptr,  # [N, R] float32
    ranks_ptr,  # [N, R] int32, zeros
    slots_ptr,  # [n_tiles, R] int32, -1 = not kept; read if KEEP
    kept_ptr,  # [n_slots, R, BLOCK_V] float32; written if KEEP
    R,
    V,
    D,
    N,
    stride_xr,
    stride_xd,
    stride_wv,
    stride_wd,
    HAS_BIAS: tl.constexpr,
    WIDEN: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tl.static_assert(BLOCK_V <= 128)  # a tile's count must fit a byte
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_R
    tile = tl.program_id(1)
    first = tile * BLOCK_V
    z = tl_vocab_tile(
        x_ptr + first_row * stride_xr,
        weight_ptr + first.to(tl.int64) * stride_wv,
        bias_ptr + first,
        R - first_row,
        V - first,
        D,
        stride_xr,
        stride_xd,
        stride_wv,
        stride_wd,
        HAS_BIAS,
        WIDEN,
        BLOCK_R,
        BLOCK_V,
        BLOCK_D,
    )
    row = first_row + tl.arange(0, BLOCK_R)
    row_ok = row < R
    column = tl.arange(0, BLOCK_V)
    if KEEP:
        slot = tl.load(slots_ptr + tile.to(tl.int64) * R + row, mask=row_ok, other=-1)
        to = (slot.to(tl.int64) * R + row) * BLOCK_V
        tl.store(kept_ptr + to[:, None] + column[None, :], z, mask=(slot >= 0)[:, None])
    for t in range(0, N, PACK):
        packed = tl.zeros((BLOCK_R, BLOCK_V), tl.int32)
        for i in tl.static_range(PACK):
            at = row + (t + i) * R
            own = tl.load(targets_ptr + at, mask=row_ok, other=-1) - first
            logit = tl.load(target_logits_ptr + at, mask=row_ok, other=float("nan"))
            equal = (z == logit[:, None]) & (column[None, :] < own[:, None])
            before = (z > logit[:, None]) | equal
            packed += before.to(tl.int32) << (8 * i)
        counts = tl.sum(packed, 1)
        for i in tl.static_range(PACK):
            at = row + (t + i) * R
            count = (counts >> (8 * i)) & 0xFF
            tl.atomic_add(ranks_ptr + at, count, mask=row_ok & (count > 0), sem="relaxed")


@on_its_device
def vocab_rank(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    target_logits: Tensor,
    slots: Tensor | None,
    n_slots: int,
) -> tuple[Tensor, Tensor]:
    """Return int32 ranks [n, R] (0 where the target is -1) and the kept logits.

    Args:
        x: [R, d] float32 / float16 / bfloat16, any strides.
        weight: [V, d], likewise.
        bias: [V] or None.
        targets: int32 [n, R], contiguous, n a multiple of 4; -1 = none.
        target_logits: float32 [n, R], of `vocab_reduce`.
        slots: int32 [n_tiles, R], contiguous: where a tile is kept, 0 to n_slots - 1, each once
            per row; -1 is nowhere. None keeps nothing.
        n_slots: kept tiles per row.

    Returns:
        The ranks, and float32 [n_slots, R, block_v]: -inf beyond the vocabulary.

    Oracle: `pyengine.reference.vocab_project`.
    """
    if len(targets) % PACK.value or targets.numel() >= 2**31:
        raise ValueError(f"targets must be [a multiple of 4, R], got {tuple(targets.shape)}")
    launch = vocab_launch(x, weight)
    n_rows, n_tiles = len(x), triton.cdiv(len(weight), launch.block_v)
    ranks = torch.zeros(targets.shape, dtype=torch.int32, device=x.device)
    kept = torch.empty(n_slots, n_rows, launch.block_v, device=x.device)
    if n_rows:
        _vocab_rank_kernel[(triton.cdiv(n_rows, launch.block_r), n_tiles)](
            x,
            weight,
            x if bias is None else bias,
            targets,
            target_logits,
            ranks,
            targets if slots is None else slots,
            kept,
            n_rows,
            *weight.shape,
            len(targets),
            *x.stride(),
            *weight.stride(),
            HAS_BIAS=bias is not None,
            KEEP=slots is not None,
            **vocab_arguments(x, weight, launch),
        )
    return ranks, kept

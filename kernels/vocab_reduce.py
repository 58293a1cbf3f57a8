"""First pass over the vocabulary: what each tile of logits comes to, without storing the logits.

A program owns a tile, a block of rows times a block of tokens. With d = z - max z over the tile it
leaves max z, s = Σ exp(d) and u = Σ exp(d)·d, from which, over all tiles in their order, follow
log-sum-exp = max z + log s and entropy = log s - u / s. Ties keep the lower id. Nothing is carried
from tile to tile (it would spill), and the bits of a row depend on nothing but the row.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.kernels._launch import on_its_device, vocab_arguments, vocab_launch
from pyengine.kernels._vocab_tile import tl_vocab_tile

GATHER = tl.constexpr(16)  # target logits picked from a tile at once


class VocabTiles(NamedTuple):
    """What `vocab_reduce` returns for R rows and n targets.

    Attributes:
        highest: float32 [R, n_tiles].
        lowest: likewise.
        s: likewise; NaN where a logit is.
        u: likewise.
        best: int32 [R, n_tiles], the column in the tile with the highest logit.
        worst: likewise, with the lowest.
        target_logits: float32 [n, R]; NaN where the target is -1.
    """

    highest: Tensor
    lowest: Tensor
    s: Tensor
    u: Tensor
    best: Tensor
    worst: Tensor
    target_logits: Tensor


@triton.jit(do_not_specialize=["R", "V", "N"])
def _vocab_reduce_kernel(
    x_ptr,  # [R, D]
    weight_ptr,  # [V, D]
    bias_ptr,  # [V]; read if HAS_BIAS
    targets_ptr,  # [N, R] int32
    highest_ptr,  # this and the next five: [R, n_tiles]
    lowest_ptr,
    s_ptr,
    u_ptr,
    best_ptr,
    worst_ptr,
    target_logits_ptr,  # [N, R] float32
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
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
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
    for t in range(0, N, GATHER):
        slot = t + tl.arange(0, GATHER)
        at = slot.to(tl.int64)[None, :] * R + row[:, None]
        ok = row_ok[:, None] & (slot < N)[None, :]
        column = tl.load(targets_ptr + at, mask=ok, other=-1) - first
        here = (column >= 0) & (column < BLOCK_V)
        picked = tl.gather(z, tl.where(here, column, 0), 1)
        tl.store(target_logits_ptr + at, picked, mask=ok & here)

    token_ok = (tl.arange(0, BLOCK_V) < V - first)[None, :]
    # NaN never competes: what a maximum makes of it varies. It shows in s.
    low, worst = tl.min(tl.where(token_ok & (z == z), z, float("inf")), 1, return_indices=True)
    high, best = tl.max(tl.where(z == z, z, float("-inf")), 1, return_indices=True)
    d = tl.where(z == high[:, None], 0.0, z - high[:, None])  # also for equal infinities
    d = tl.where(d < -1e4, -1e4, d)  # exp(d) = 0, and stays 0 in u; `maximum` would drop NaN
    e = tl.exp(d)
    to = row * tl.num_programs(1) + tile
    tl.store(highest_ptr + to, high, mask=row_ok)
    tl.store(lowest_ptr + to, low, mask=row_ok)
    tl.store(s_ptr + to, tl.sum(e, 1), mask=row_ok)
    tl.store(u_ptr + to, tl.sum(e * d, 1), mask=row_ok)
    tl.store(best_ptr + to, best, mask=row_ok)
    tl.store(worst_ptr + to, worst, mask=row_ok)


@on_its_device
def vocab_reduce(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> VocabTiles:
    """Reduce every tile of `vocab_launch(x, weight).block_v` tokens.

    Args:
        x: [R, d] float32 / float16 / bfloat16, any strides.
        weight: [V, d], likewise.
        bias: [V] or None.
        targets: int32 [n, R], contiguous; -1 = none.

    Oracle: `pyengine.reference.vocab_project`.
    """
    launch = vocab_launch(x, weight)
    shape = len(x), triton.cdiv(len(weight), launch.block_v)
    highest, lowest, s, u = (torch.empty(shape, device=x.device) for _ in range(4))
    best, worst = (torch.empty(shape, dtype=torch.int32, device=x.device) for _ in range(2))
    target_logits = torch.full(targets.shape, float("nan"), device=x.device)
    found = VocabTiles(highest, lowest, s, u, best, worst, target_logits)
    if len(x):
        _vocab_reduce_kernel[(triton.cdiv(len(x), launch.block_r), shape[1])](
            x,
            weight,
            x if bias is None else bias,
            targets,
            *found,
            *x.shape[:1],
            *weight.shape,
            len(targets),
            *x.stride(),
            *weight.stride(),
            HAS_BIAS=bias is not None,
            **vocab_arguments(x, weight, launch),
        )
    return found

"""What both passes over the vocabulary share: one tile of logits, with the same bits in each."""

import triton
import triton.language as tl


@triton.jit
def tl_vocab_tile(
    x_ptr,  # the block's first row
    weight_ptr,  # the tile's first token
    bias_ptr,  # likewise
    n_rows,  # in the block
    n_tokens,  # in the tile
    D,
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
    """Return float32 logits [BLOCK_R, BLOCK_V]; what lies beyond the vocabulary is -inf.

    Summed over d in steps of BLOCK_D, ascending. Half precision multiplies exactly; WIDEN, for two
    different dtypes, makes float32 of both first. float32 is never rounded to TF32. Offsets inside
    a tile are 32-bit: 64-bit ones would spill.
    """
    row = tl.arange(0, BLOCK_R)
    token = tl.arange(0, BLOCK_V)
    at = tl.arange(0, BLOCK_D)
    x_at = (row * stride_xr)[:, None] + (at * stride_xd)[None, :]
    w_at = (token * stride_wv)[None, :] + (at * stride_wd)[:, None]
    z = tl.zeros((BLOCK_R, BLOCK_V), tl.float32)
    for first in range(0, D, BLOCK_D):
        inside = at < D - first
        x = tl.load(x_ptr + x_at, mask=(row < n_rows)[:, None] & inside[None, :], other=0.0)
        w_ok = (token < n_tokens)[None, :] & inside[:, None]
        w = tl.load(weight_ptr + w_at, mask=w_ok, other=0.0)
        if WIDEN:
            x = x.to(tl.float32)
            w = w.to(tl.float32)
        z = tl.dot(x, w, z, input_precision="ieee")
        x_ptr += BLOCK_D * stride_xd
        weight_ptr += BLOCK_D * stride_wd
    if HAS_BIAS:
        z += tl.load(bias_ptr + token, mask=token < n_tokens, other=0.0).to(tl.float32)[None, :]
    return tl.where((token < n_tokens)[None, :], z, float("-inf"))

"""Weighted sums of the rows of each source, one program per (source, columns).

::

    sums[s] = sum over starts[s] <= r < starts[s + 1] of weights[r] * gradients[r]

In the order of r, in float32, without atomics: the bits of a sum depend on the rows of its source
alone. Bytes: read the gradients once, write the sums.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.kernels._launch import PATH_SUMS, check_float, on_its_device

UNROLL = tl.constexpr(8)  # rows in flight: their loads do not wait for the sum


@triton.jit
def _path_sums_kernel(
    gradients_ptr,  # [R, D]
    starts_ptr,  # [S + 1] int64
    weights_ptr,  # [R] float32
    sums_ptr,  # [S, D] float32
    D,
    stride_gr,
    stride_gd,
    BLOCK_F: tl.constexpr,
):
    source = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * BLOCK_F + tl.arange(0, BLOCK_F)
    first = tl.load(starts_ptr + source)
    last = tl.load(starts_ptr + source + 1)
    sums = tl.zeros((BLOCK_F,), tl.float32)
    for done in range(0, last - first, UNROLL):
        for i in tl.static_range(UNROLL):
            row = first + done + i
            ok = row < last  # what follows adds 0
            width = tl.where(ok, D, 0)  # the interpreter cannot & a scalar with a row of masks
            at = row * stride_gr + column * stride_gd
            gradient = tl.load(gradients_ptr + at, mask=column < width, other=0.0)
            weight = tl.load(weights_ptr + row, mask=ok, other=0.0)
            sums += weight * gradient.to(tl.float32)
    tl.store(sums_ptr + source * D + column, sums, mask=column < D)


@on_its_device
def path_sums(gradients: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Return float32 [S, D], zero where a source has no rows.

    Args:
        gradients: [R, D] float32 / float16 / bfloat16, any strides.
        starts: int64 [S + 1], contiguous, ascending from 0 to R: the first row of each source.
        weights: float32 [R], contiguous.

    Oracle: `pyengine.reference.path_sums`.
    """
    check_float("gradients", gradients)
    n_sources, d = len(starts) - 1, gradients.shape[1]
    sums = torch.empty(n_sources, d, device=gradients.device)
    if sums.numel():
        _path_sums_kernel[(n_sources, triton.cdiv(d, PATH_SUMS.block_f))](
            gradients,
            starts,
            weights,
            sums,
            d,
            *gradients.stride(),
            BLOCK_F=PATH_SUMS.block_f,
            num_warps=PATH_SUMS.num_warps,
        )
    return sums

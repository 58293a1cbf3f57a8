"""Points on many paths in one pass.

::

    points[r] = base[source[r]] + alpha[r] * step[source[r]]

float32 arithmetic, rounded once to the dtype of `base`. Bytes: write the points; `base` and `step`
are read from memory once, since the points of a path are neighbours and find them in the cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.kernels._launch import PATH_POINTS, PATH_ROWS, check_float, on_its_device


@triton.jit(do_not_specialize=["R"])
def _path_points_kernel(
    base_ptr,  # [S, D]
    step_ptr,  # [S, D]
    source_ptr,  # [R] int64
    alpha_ptr,  # [R] float32
    points_ptr,  # [R, D]
    R,
    D,
    stride_bs,
    stride_bd,
    stride_ss,
    stride_sd,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(1).to(tl.int64) * BLOCK_F + tl.arange(0, BLOCK_F)
    row_ok = row < R
    ok = row_ok[:, None] & (column < D)[None, :]
    source = tl.load(source_ptr + row, mask=row_ok, other=0)[:, None]
    alpha = tl.load(alpha_ptr + row, mask=row_ok, other=0.0)[:, None]
    at = source * stride_bs + column[None, :] * stride_bd
    base = tl.load(base_ptr + at, mask=ok, other=0.0).to(tl.float32)
    at = source * stride_ss + column[None, :] * stride_sd
    step = tl.load(step_ptr + at, mask=ok, other=0.0).to(tl.float32)
    points = (base + alpha * step).to(points_ptr.dtype.element_ty)
    tl.store(points_ptr + row[:, None] * D + column[None, :], points, mask=ok)


@on_its_device
def path_points(base: Tensor, step: Tensor, source: Tensor, alpha: Tensor) -> Tensor:
    """Return [R, D], contiguous, in the dtype of `base`.

    Args:
        base: [S, D] float32 / float16 / bfloat16, any strides.
        step: [S, D], likewise.
        source: int64 [R], contiguous, each in [0, S): not checked.
        alpha: float32 [R], contiguous.

    Oracle: `pyengine.reference.path_points`.
    """
    for name, tensor in (("base", base), ("step", step)):
        check_float(name, tensor)
    n_rows, d = len(source), base.shape[1]
    points = torch.empty(n_rows, d, dtype=base.dtype, device=base.device)
    if points.numel():
        grid = (triton.cdiv(n_rows, PATH_ROWS), triton.cdiv(d, PATH_POINTS.block_f))
        _path_points_kernel[grid](
            base,
            step,
            source,
            alpha,
            points,
            n_rows,
            d,
            *base.stride(),
            *step.stride(),
            BLOCK_R=PATH_ROWS,
            BLOCK_F=PATH_POINTS.block_f,
            num_warps=PATH_POINTS.num_warps,
        )
    return points

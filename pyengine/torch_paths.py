"""Points on paths and their weighted sums in torch: blocks of rows that stay in the cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

CPU_BLOCK, BLOCK = 1 << 17, 1 << 24  # elements at once


def path_points(base: Tensor, step: Tensor, source: Tensor, alpha: Tensor) -> Tensor:
    """Return [R, D]; see `pyengine.paths.path_points`."""
    dtype = _computed_in(base)
    alpha = alpha.to(dtype)[:, None]
    points = base.new_empty(len(source), base.shape[1])
    for part in _blocks(points):
        start, way = (x.index_select(0, source[part]).to(dtype) for x in (base, step))
        torch.addcmul(start, way, alpha[part], out=points[part])
    return points


def path_sums(gradients: Tensor, source: Tensor, weights: Tensor, n_sources: int) -> Tensor:
    """Return [n_sources, D]; see `pyengine.paths.path_sums`."""
    dtype = _computed_in(gradients)
    weights = weights.to(dtype)[:, None]
    sums = gradients.new_zeros(n_sources, gradients.shape[1], dtype=dtype)
    for part in _blocks(gradients):
        terms = gradients[part] * weights[part]  # in `dtype`, even of halves
        if sums.device.type == "cpu":
            sums.index_add_(0, source[part], terms)  # row after row
        else:  # sorts, where index_add_ would add in the order of the threads
            sums.index_put_((source[part],), terms, accumulate=True)
    return sums


def _computed_in(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _blocks(rows: Tensor) -> Iterator[slice]:
    """Yield slices of rows that fit a block."""
    block = CPU_BLOCK if rows.device.type == "cpu" else BLOCK
    n = max(1, block // max(1, rows.shape[1]))
    return (slice(first, first + n) for first in range(0, len(rows), n))

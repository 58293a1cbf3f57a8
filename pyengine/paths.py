"""Integrated gradients over many paths at once: the points on them, and the weighted sums.

Sundararajan et al. 2017, eq. 3, by a quadrature rule with nodes α and weights w: for each source
(a layer of a prompt, say) the gradients at ``base + α · step`` are summed with weights w. Nodes of
all sources lie in the rows of one batch, so that each may have its own number of them.
"""

import torch
from torch import Tensor

from pyengine import reference, torch_paths
from pyengine.backend import backend_for

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SCALARS = (torch.float32, torch.float64)


@torch.no_grad()
def path_points(base: Tensor, step: Tensor, source: Tensor, alpha: Tensor) -> Tensor:
    """Return points on paths: row r is base[source[r]] + alpha[r] * step[source[r]].

    Not differentiable: the result is a leaf. Checking `source` waits for the device.

    Args:
        base: [S, D], float32, float16, bfloat16 or float64, any strides: where the paths start.
        step: [S, D], in the dtype of `base`, any strides: from their starts to their ends.
        source: int64 [R], 0 to S - 1 in any order: the path of each point.
        alpha: [R], float32 or float64: how far along it, 1 being its end.

    Returns:
        [R, D] in the dtype of `base`, contiguous; computed in float32 (float64 for float64), to
        which alpha is rounded, and rounded once. NaN and infinity follow IEEE 754: an infinite
        step gives NaN at alpha = 0.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or a source out of range.
        PyengineError: for float64 on CUDA, unless PYENGINE_BACKEND=torch.

    Oracle: `pyengine.reference.path_points`.
    """
    if base.ndim != 2 or base.dtype not in FLOATS:
        raise ValueError(_wanted("base", "floating-point [S, D]", base))
    if step.shape != base.shape or step.dtype != base.dtype:
        raise ValueError(_wanted("step", f"{base.dtype} {_shape(base)}", step))
    _check_rows(source, "alpha", alpha, base, len(base))
    backend = backend_for(base.device)
    if backend == "reference":
        return reference.path_points(base, step, source, alpha)
    if backend == "torch":
        return torch_paths.path_points(base, step, source, alpha)
    from pyengine import triton_paths

    return triton_paths.path_points(base, step, source, alpha)


@torch.no_grad()
def path_sums(gradients: Tensor, source: Tensor, weights: Tensor, n_sources: int) -> Tensor:
    """Return weighted sums: row s is the sum over source[r] == s of weights[r] * gradients[r].

    The same bits every time; on the CPU and by the kernel a source's rows are added in order, so
    that its sum depends on them alone. Not differentiable. Checking `source` waits for the device.

    Args:
        gradients: [R, D], float32, float16, bfloat16 or float64, any strides.
        source: int64 [R], ascending (equal ones are neighbours), 0 to n_sources - 1.
        weights: [R], float32 or float64.
        n_sources: rows of the result.

    Returns:
        [n_sources, D], float32 (float64 for float64 gradients), in which it is summed and to which
        weights are rounded; zero where a source has no rows. NaN and infinity stay in their source.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or a source out of range or
            out of order.
        PyengineError: for float64 on CUDA, unless PYENGINE_BACKEND=torch.

    Oracle: `pyengine.reference.path_sums`.
    """
    if gradients.ndim != 2 or gradients.dtype not in FLOATS:
        raise ValueError(_wanted("gradients", "floating-point [R, D]", gradients))
    if n_sources < 0:
        raise ValueError(f"n_sources must not be negative, got {n_sources}")
    if len(source) != len(gradients):
        raise ValueError(_wanted("source", f"int64 [{len(gradients)}]", source))
    _check_rows(source, "weights", weights, gradients, n_sources, ascending=True)
    backend = backend_for(gradients.device)
    if backend == "reference":
        return reference.path_sums(gradients, source, weights, n_sources)
    if backend == "torch":
        return torch_paths.path_sums(gradients, source, weights, n_sources)
    from pyengine import triton_paths

    return triton_paths.path_sums(gradients, source, weights, n_sources)


def _check_rows(
    source: Tensor,
    name: str,
    scalars: Tensor,
    like: Tensor,
    n_sources: int,
    *,
    ascending: bool = False,
) -> None:
    """Raise ValueError unless `source` and `scalars` describe rows; one wait for the device."""
    if source.ndim != 1 or source.dtype != torch.int64:
        raise ValueError(_wanted("source", "int64 [R]", source))
    if scalars.shape != source.shape or scalars.dtype not in SCALARS:
        raise ValueError(_wanted(name, f"float32 or float64 {_shape(source)}", scalars))
    for label, tensor in (("source", source), (name, scalars)):
        if tensor.device != like.device:
            raise ValueError(f"{label} must be on {like.device}, got {tensor.device}")
    if not source.numel():
        return
    falls = (source[1:] < source[:-1]).sum()
    low, high, n_falls = torch.stack([*source.aminmax(), falls]).tolist()
    if low < 0 or high >= n_sources:
        worst = low if low < 0 else high
        raise ValueError(f"source {worst} is out of range; there are {n_sources} sources")
    if ascending and n_falls:
        raise ValueError("source must ascend: sort the rows, and what belongs to them, by it")


def _wanted(name: str, what: str, got: Tensor) -> str:
    return f"{name} must be {what}, got {got.dtype} {_shape(got)}"


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"

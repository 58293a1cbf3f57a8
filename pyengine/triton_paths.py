"""The CUDA path of `pyengine.paths`: prepare what the kernels read."""

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.kernels import path_points as points_kernel
from pyengine.kernels import path_sums as sums_kernel


def path_points(base: Tensor, step: Tensor, source: Tensor, alpha: Tensor) -> Tensor:
    """Return [R, D]; see `pyengine.paths.path_points`.

    Raises:
        PyengineError: for float64, which the kernel does not know.
    """
    _refuse_double(base)
    return points_kernel.path_points(base, step, source.contiguous(), alpha.float().contiguous())


def path_sums(gradients: Tensor, source: Tensor, weights: Tensor, n_sources: int) -> Tensor:
    """Return [n_sources, D]; see `pyengine.paths.path_sums`.

    Raises:
        PyengineError: for float64, which the kernel does not know.
    """
    _refuse_double(gradients)
    starts = torch.searchsorted(
        source.contiguous(), torch.arange(n_sources + 1, device=source.device)
    )
    return sums_kernel.path_sums(gradients, starts, weights.float().contiguous())


def _refuse_double(tensor: Tensor) -> None:
    if tensor.dtype == torch.float64:
        raise PyengineError(
            "float64 paths need the torch path on this device: set PYENGINE_BACKEND=torch"
        )

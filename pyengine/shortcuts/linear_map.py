"""A linear map from one point of the residual stream to another: M h + b."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import PyengineError

# How maps are fitted: without and with an intercept.
MAT, AFFINE = "mat", "affine"
KINDS = (MAT, AFFINE)
# Nothing is fitted: the vector as it is (the "logit lens").
IDENTITY = "id"


@dataclass(frozen=True, eq=False)
class LinearMap:
    """M h + b.

    Attributes:
        weight: float32 [d_target, d_source]; None: the identity.
        bias: float32 [d_target], or None.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None

    def __call__(self, h: Tensor) -> Tensor:
        """Map [..., d_source] to [..., d_target]: in float32, or in float64 where h is.

        Raises:
            PyengineError: for another width.
        """
        dtype = torch.float64 if h.dtype == torch.float64 else torch.float32
        if self.weight is not None and h.shape[-1:] != self.weight.shape[1:]:
            raise PyengineError(f"h must be [..., {self.weight.shape[1]}], got {list(h.shape)}")
        h = h.to(dtype)
        # Nobody's autocast may round what was solved in float64.
        with torch.autocast(h.device.type, enabled=False):
            if self.weight is not None:
                h = h @ self.weight.to(h.device, dtype).t()
            return h if self.bias is None else h + self.bias.to(h.device, dtype)

    def truncated(self, basis: Tensor, rank: int, mean: Tensor | None = None) -> "LinearMap":
        """Return the best map of a lower rank: U_r U_rᵀ M h + b' (reduced-rank regression).

        The outputs of an affine map keep their mean, for only what varies is projected:
        b' = b + (I - U_r U_rᵀ) M μ, μ the mean of the source's states.

        Args:
            basis: [d_target, d_target], columns from the largest variance of the outputs down.
            rank: r.
            mean: M μ, [d_target]; only where there is a bias.

        Raises:
            PyengineError: if it is missing.
        """
        assert self.weight is not None
        kept = basis[:, :rank].to(self.weight)
        weight = kept @ (kept.t() @ self.weight)
        if self.bias is None:
            return LinearMap(weight)
        if mean is None:
            raise PyengineError("an affine map is truncated about the mean of its outputs: give it")
        mean = mean.to(self.weight)
        return LinearMap(weight, self.bias + mean - kept @ (kept.t() @ mean))

    def to(self, device: Any) -> "LinearMap":
        """Return it on a device."""
        moved = [None if part is None else part.to(device) for part in (self.weight, self.bias)]
        return LinearMap(*moved)

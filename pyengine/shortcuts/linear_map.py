"""A linear map from one point of the residual stream to another: M h + b."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        """Map [..., d_source] to [..., d_target]: in float32, or in float64 where h is."""
        dtype = torch.float64 if h.dtype == torch.float64 else torch.float32
        h = h.to(dtype)
        # Nobody's autocast may round what was solved in float64.
        with torch.autocast(h.device.type, enabled=False):
            if self.weight is not None:
                h = h @ self.weight.to(h.device, dtype).t()
            return h if self.bias is None else h + self.bias.to(h.device, dtype)

    def truncated(self, basis: Tensor, rank: int) -> "LinearMap":
        """Return the best map of a lower rank: U_r U_rᵀ M h + b' (reduced-rank regression).

        The outputs of the affine map keep their mean: only what varies is projected.

        Args:
            basis: [d_target, d_target], columns from the largest variance of the outputs down.
            rank: r.
        """
        assert self.weight is not None
        kept = basis[:, :rank].to(self.weight)
        return LinearMap(kept @ (kept.t() @ self.weight), self.bias)

    def to(self, device: Any) -> "LinearMap":
        """Return it on a device."""
        moved = [None if part is None else part.to(device) for part in (self.weight, self.bias)]
        return LinearMap(*moved)

"""The path of one layer: points on it, and scores from the gradients at them."""

from typing import Any, Protocol

import torch
from torch import Tensor

from pyengine import ops
from pyengine.gradients.blocks import Block
from pyengine.gradients.clean_pass import CleanLayer
from pyengine.models import Model


class LayerPath(Protocol):
    """P paths through one layer, one per cloze.

    Attributes:
        activations: [P, d_ff], where the paths end.
    """

    activations: Tensor

    def __init__(
        self,
        model: Model,
        block: Block,
        seen: CleanLayer,
        baseline: Tensor | None,
        dtype: torch.dtype,
    ) -> None: ...

    def z(self, items: Tensor, alpha: Tensor) -> Tensor:
        """Return z at points of the paths of some clozes, [R, d_model], as the model has it."""
        ...

    def scores(self, items: Tensor, alpha: Tensor, weights: Tensor, gradients: Tensor) -> Tensor:
        """Return (a - b) times weighted sums of the gradients with respect to a, [m, Q, d_ff].

        Args:
            items: int64 [Q], the cloze of each sum.
            alpha: float64 [n], the points of all of them.
            weights: float64 [m, n], of m rules.
            gradients: [Q, n, d_model], with respect to z.
        """
        ...

    def reach(self) -> Tensor:
        """Return the path's length over that of the vector it is added to, [P]."""
        ...


class PostPath:
    """Coefficients are scaled: z is linear in α, and one product with W ends the sum."""

    def __init__(
        self,
        model: Model,
        block: Block,
        seen: CleanLayer,
        baseline: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        assert seen.post is not None and seen.mid is not None
        self._values = model.values(block.layer.index)  # [d_ff, d_model]
        self._z_dtype = torch.promote_types(seen.mid.dtype, self._values.dtype)
        self.activations = seen.post.to(dtype)
        start = _start(seen, baseline, dtype)
        self._change = self.activations if start is None else self.activations - start
        values = self._values.to(dtype)
        self._base = seen.mid.to(dtype)
        if start is not None:
            self._base = self._base + start @ values
        if (bias := block.bias) is not None:
            self._base = self._base + bias.to(dtype)
        self._step = self._change @ values
        self._mid_norm = seen.mid.to(dtype).norm(dim=1)

    def z(self, items: Tensor, alpha: Tensor) -> Tensor:
        return ops.path_points(self._base, self._step, items, alpha).to(self._z_dtype)

    def scores(self, items: Tensor, alpha: Tensor, weights: Tensor, gradients: Tensor) -> Tensor:
        n_sums, n = gradients.shape[:2]
        source = torch.arange(n_sums, device=gradients.device).repeat_interleave(n)
        flat = gradients.flatten(0, 1)
        sums = [ops.path_sums(flat, source, rule.repeat(n_sums), n_sums) for rule in weights]
        both = torch.stack(sums)
        return self._change[items] * (both @ self._values.to(both.dtype).t())

    def reach(self) -> Tensor:
        return self._step.norm(dim=1) / self._mid_norm


class PrePath:
    """Inputs of the non-linearity are scaled, as the package does for GPT: z is not linear in α."""

    def __init__(
        self,
        model: Model,
        block: Block,
        seen: CleanLayer,
        baseline: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        assert seen.pre is not None and seen.mid is not None
        self._values = model.values(block.layer.index)
        self._z_dtype = torch.promote_types(seen.mid.dtype, self._values.dtype)
        self._activation = block.activation
        self._bias = block.bias
        self._mid = seen.mid.to(dtype)
        self._up = None if seen.up is None else seen.up.to(dtype)
        self.activations = seen.pre.to(dtype)
        start = _start(seen, baseline, dtype)
        self._from = torch.zeros_like(self.activations) if start is None else start
        self._change = self.activations - self._from

    def z(self, items: Tensor, alpha: Tensor) -> Tensor:
        written = self._coefficients(self._points(items, alpha), items) @ self._wide_values
        if self._bias is not None:
            written = written + self._bias.to(written.dtype)
        return (self._mid[items] + written).to(self._z_dtype)

    def scores(self, items: Tensor, alpha: Tensor, weights: Tensor, gradients: Tensor) -> Tensor:
        rows = items.repeat_interleave(len(alpha))
        points = self._points(rows, alpha.repeat(len(items)))
        with torch.enable_grad():
            coefficients = self._coefficients(points.requires_grad_(), rows)
            onto = gradients.flatten(0, 1).to(points.dtype) @ self._wide_values.t()
            (slopes,) = torch.autograd.grad(coefficients, points, onto)
        by_path = slopes.view(len(items), len(alpha), slopes.shape[1])
        return self._change[items] * torch.einsum("mn,qnf->mqf", weights.to(slopes), by_path)

    def reach(self) -> Tensor:
        items = torch.arange(len(self._mid), device=self._mid.device)
        alpha = torch.ones_like(items, dtype=self._mid.dtype)
        step = self.z(items, alpha) - self.z(items, 0 * alpha)
        return step.to(self._mid.dtype).norm(dim=1) / self._mid.norm(dim=1)

    @property
    def _wide_values(self) -> Tensor:
        return self._values.to(self._mid.dtype)

    def _points(self, items: Tensor, alpha: Tensor) -> Tensor:
        return ops.path_points(self._from, self._change, items, alpha)

    def _coefficients(self, pre: Tensor, items: Tensor) -> Tensor:
        coefficients: Any = self._activation(pre)
        return coefficients if self._up is None else coefficients * self._up[items]


def _start(seen: CleanLayer, baseline: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return where the paths begin, [P, d_ff]; None: at zero."""
    if seen.mean is not None:
        return seen.mean.to(dtype)
    if baseline is None:
        return None
    assert seen.mid is not None
    return baseline.to(dtype).expand(len(seen.mid), -1)

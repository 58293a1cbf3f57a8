"""The path of one layer: points on it, and scores from the gradients at them."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyengine import ops
from pyengine.gradients.blocks import Block
from pyengine.gradients.clean_pass import CleanLayer
from pyengine.models import Model


class LayerPath(ABC):
    """P paths through one layer, one per cloze.

    Args:
        model: the model.
        block: the layer's block.
        seen: its clean pass.
        activations: [P, d_ff], where the paths end.
        baseline: [d_ff], where they begin; None: at zero, or at the mean of each cloze.
        dtype: of the computation.
    """

    def __init__(
        self,
        model: Model,
        block: Block,
        seen: CleanLayer,
        activations: Tensor,
        baseline: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        assert seen.mid is not None
        self.activations = activations.to(dtype)
        self._values = model.values(block.layer.index)  # [d_ff, d_model]
        self._bias = block.bias
        self._mid = seen.mid.to(dtype)
        self._z_dtype = torch.promote_types(seen.mid.dtype, self._values.dtype)
        start = seen.mean if seen.mean is not None else baseline
        self._start = None if start is None else start.to(dtype).expand_as(self.activations)
        self._change = self.activations if self._start is None else self.activations - self._start

    @abstractmethod
    def z(self, items: Tensor, alpha: Tensor) -> Tensor:
        """Return z at points of the paths of some clozes, [R, d_model], as the model has it."""

    @abstractmethod
    def scores(self, items: Tensor, alpha: Tensor, weights: Tensor, gradients: Tensor) -> Tensor:
        """Return (a - b) times weighted sums of the gradients with respect to a, [m, Q, d_ff].

        Args:
            items: int64 [Q], the cloze of each sum.
            alpha: float64 [n], the points of all of them.
            weights: float64 [m, n], of m rules.
            gradients: [Q, n, d_model], with respect to z.
        """

    @abstractmethod
    def step(self) -> Tensor:
        """Return z(1) - z(0), [P, d_model]."""

    def reach(self) -> Tensor:
        """Return the path's length over that of the vector it is added to, [P]."""
        return self.step().norm(dim=1) / self._mid.norm(dim=1)

    def _wide_values(self) -> Tensor:
        return self._values.to(self._mid.dtype)

    def _with_bias(self, written: Tensor) -> Tensor:
        return written if self._bias is None else written + self._bias.to(written.dtype)


class PostPath(LayerPath):
    """Coefficients are scaled: z is linear in α, and one product with W ends the sum."""

    def __init__(
        self,
        model: Model,
        block: Block,
        seen: CleanLayer,
        baseline: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        assert seen.post is not None and seen.written is not None
        super().__init__(model, block, seen, seen.post, baseline, dtype)
        self._base = self._with_bias(self._mid)
        self._step = seen.written.to(dtype)
        if self._bias is not None:
            self._step = self._step - self._bias.to(dtype)
        if self._start is not None:
            written = self._start @ self._wide_values()
            self._base, self._step = self._base + written, self._step - written

    def z(self, items: Tensor, alpha: Tensor) -> Tensor:
        return ops.path_points(self._base, self._step, items, alpha).to(self._z_dtype)

    def scores(self, items: Tensor, alpha: Tensor, weights: Tensor, gradients: Tensor) -> Tensor:
        n_sums, n = gradients.shape[:2]
        source = torch.arange(n_sums, device=gradients.device).repeat_interleave(n)
        flat = gradients.flatten(0, 1)
        sums = [ops.path_sums(flat, source, rule.repeat(n_sums), n_sums) for rule in weights]
        return self._change[items] * (torch.stack(sums) @ self._wide_values().t())

    def step(self) -> Tensor:
        return self._step


class PrePath(LayerPath):
    """Inputs of the non-linearity are scaled, as the package does for GPT: z is not linear in α."""

    def __init__(
        self,
        model: Model,
        block: Block,
        seen: CleanLayer,
        baseline: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        assert seen.pre is not None
        super().__init__(model, block, seen, seen.pre, baseline, dtype)
        self._activation = block.activation
        self._up = None if seen.up is None else seen.up.to(dtype)
        self._base = torch.zeros_like(self.activations) if self._start is None else self._start

    def z(self, items: Tensor, alpha: Tensor) -> Tensor:
        coefficients = self._coefficients(self._points(items, alpha), items)
        written = self._with_bias(coefficients @ self._wide_values())
        return (self._mid[items] + written).to(self._z_dtype)

    def scores(self, items: Tensor, alpha: Tensor, weights: Tensor, gradients: Tensor) -> Tensor:
        rows = items.repeat_interleave(len(alpha))
        points = self._points(rows, alpha.repeat(len(items)))
        with torch.enable_grad():
            coefficients = self._coefficients(points.requires_grad_(), rows)
            onto = gradients.flatten(0, 1).to(points.dtype) @ self._wide_values().t()
            (slopes,) = torch.autograd.grad(coefficients, points, onto)
        by_path = slopes.view(len(items), len(alpha), slopes.shape[1])
        return self._change[items] * torch.einsum("mn,qnf->mqf", weights.to(slopes), by_path)

    def step(self) -> Tensor:
        items = torch.arange(len(self._mid), device=self._mid.device)
        alpha = torch.ones_like(items, dtype=self._mid.dtype)
        return (self.z(items, alpha) - self.z(items, 0 * alpha)).to(self._mid.dtype)

    def _points(self, items: Tensor, alpha: Tensor) -> Tensor:
        return ops.path_points(self._base, self._change, items, alpha)

    def _coefficients(self, pre: Tensor, items: Tensor) -> Tensor:
        coefficients = self._activation(pre)
        return coefficients if self._up is None else coefficients * self._up[items]

"""One attention of a block, part by part, so that keys and values can be shared or replaced."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyengine.layers import Layer
from pyengine.models import Model


@dataclass(frozen=True, eq=False)
class Attention:
    """Multi-head attention; `H` heads of width `W`.

    Attributes:
        projections: queries, keys, values; or one module that gives all three.
        out: the output projection.
        n_heads: H.
        scale: what a query-key product is multiplied with.
        window: how many keys before and at a query are seen; None: all.
    """

    projections: tuple[nn.Module, ...]
    out: nn.Module
    n_heads: int
    scale: float
    window: int | None = None

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of [..., d_model], each [..., H * W]."""
        if len(self.projections) == 1:
            query, key, value = self.projections[0](x).chunk(3, -1)
            return query, key, value
        return self.query(x), *self.key_value(x)

    def query(self, x: Tensor) -> Tensor:
        """Return queries only; for attentions with three projections."""
        queries: Tensor = self.projections[0](x)
        return queries

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values only; for attentions with three projections."""
        return self.projections[1](x), self.projections[2](x)

    def heads(self, x: Tensor) -> Tensor:
        """Split [..., T, H * W] into [..., H, T, W]."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from [B, Tq, H * W] to [B, Tk, H * W].

        Args:
            query, key, value: projected.
            mask: what is added to the scores, broadcast to [B, H, Tq, Tk]: position bias, -inf
                where a query does not see a key.

        Returns:
            The context, [B, Tq, H * W].
        """
        context = nn.functional.scaled_dot_product_attention(
            self.heads(query),
            self.heads(key),
            self.heads(value),
            attn_mask=None if mask is None else mask.to(query.dtype),
            scale=self.scale,
        )
        return context.transpose(-3, -2).flatten(-2)


def attentions_of(model: Model, body: nn.Module, layer: Layer) -> list[Attention]:
    """Return the attentions of a block: self-attention, and T5's decoder's cross-attention."""
    stack, config = layer.stack, model.config
    n_heads = int(config.num_attention_heads)
    found = []
    for paths, out in zip(stack.projections, stack.attention, strict=True):
        modules = tuple(layer.module(body, path) for path in paths)
        into: Any = layer.module(body, out)
        width = (getattr(into, "in_features", None) or into.weight.shape[0]) // n_heads
        scale = _scale(config, layer, width)
        window = _window(config, layer)
        found.append(Attention(modules, into, n_heads, scale, window))
    return found


class PositionBias:
    """T5's relative position bias, of a stack; its first block holds it for all of them.

    Zero for other families.
    """

    def __init__(self, body: nn.Module, layer: Layer) -> None:
        module = layer.module(body, layer.stack.attention[0].rpartition(".")[0])
        self._module: Any = module if hasattr(module, "compute_bias") else None

    @torch.no_grad()
    def __call__(self, length: int) -> Tensor | None:
        """Return [1, H, length, length], queries before keys; None where there is none."""
        if self._module is None:
            return None
        bias: Tensor = self._module.compute_bias(length, length)
        return bias


def _scale(config: Any, layer: Layer, width: int) -> float:
    if not layer.stack.scaled:
        return 1.0
    scale = float(width**-0.5) if getattr(config, "scale_attn_weights", True) else 1.0
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        scale /= layer.block + 1
    return scale


def _window(config: Any, layer: Layer) -> int | None:
    kinds = getattr(config, "attention_layers", None)
    local = kinds is not None and kinds[layer.block] == "local"
    return int(config.window_size) if local else None

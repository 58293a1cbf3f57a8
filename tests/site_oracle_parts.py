"""What the hand-made forward passes of `site_oracle` have in common."""

import math

import torch
from torch import Tensor

Sites = dict[str, Tensor]
Inputs = dict[str, Tensor]


class Weights:
    """The parameters below a path."""

    def __init__(self, tensors: dict[str, Tensor], path: str = "") -> None:
        self._tensors, self._path = tensors, path

    def __truediv__(self, part: str | int) -> "Weights":
        return Weights(self._tensors, f"{self._path}{part}.")

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._path + name]

    def linear(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b of an `nn.Linear`, whose weight is [n_out, n_in]; b may be missing."""
        bias = self._tensors.get(f"{self._path}bias", torch.zeros(()))
        return x @ self["weight"].T + bias

    def conv1d(self, x: Tensor) -> Tensor:
        """Return x W + b of GPT-2's `Conv1D`, whose weight is [n_in, n_out]."""
        return x @ self["weight"] + self["bias"]


# Of each configuration name.
ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_new": lambda x: (
        x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    ),
}


def layer_norm(sites: Sites, name: str, x: Tensor, weights: Weights, eps: float) -> Tensor:
    """Subtract the mean, divide by the root of the biased variance, then weight and bias."""
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps)
    sites[f"{name}.hook_scale"] = scale
    sites[f"{name}.hook_normalized"] = centred / scale
    sites[f"{name}.hook_out"] = centred / scale * weights["weight"] + weights["bias"]
    return sites[f"{name}.hook_out"]


def rms_norm(sites: Sites, name: str, x: Tensor, weights: Weights, eps: float) -> Tensor:
    """Divide by the root of the mean square, then weight: T5's norm."""
    scale = torch.sqrt((x * x).mean(-1, keepdim=True) + eps)
    sites[f"{name}.hook_scale"] = scale
    sites[f"{name}.hook_normalized"] = x / scale
    sites[f"{name}.hook_out"] = x / scale * weights["weight"]
    return sites[f"{name}.hook_out"]


def attention(
    sites: Sites,
    name: str,
    qkv: tuple[Tensor, Tensor, Tensor],
    n_heads: int,
    visible: Tensor,
    scale: float = 1.0,
    bias: Tensor | float = 0.0,
) -> Tensor:
    """Attend.

    Args:
        sites: where to write.
        name: the attention's name.
        qkv: queries [B, T, n_heads * d_head], keys and values [B, S, n_heads * d_head].
        n_heads: heads lie one after the other in the last dimension.
        visible: bool, broadcast to [B, n_heads, T, S].
        scale: what the products are multiplied by.
        bias: added to the scores, broadcast to [B, n_heads, T, S].

    Returns:
        The context [B, T, n_heads * d_head], before the output projection.
    """
    q, k, v = (part.unflatten(-1, (n_heads, -1)) for part in qkv)
    scores = torch.einsum("bthd,bshd->bhts", q, k) * scale + bias
    lowest = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    pattern = lowest.softmax(-1)
    z = torch.einsum("bhts,bshd->bthd", pattern, v)
    for part, value in (("q", q), ("k", k), ("v", v)):
        sites[f"{name}.hook_{part}"] = value
    sites[f"{name}.hook_attn_scores"] = scores.masked_fill(~visible, -math.inf)
    sites[f"{name}.hook_pattern"] = pattern
    sites[f"{name}.hook_z"] = z
    return z.flatten(-2)


def key_mask(inputs: Inputs, name: str, ids: str) -> Tensor:
    """Return bool [B, 1, 1, S]: which keys are no padding; without a mask all are not."""
    mask = inputs.get(name, torch.ones_like(inputs[ids]))
    return mask.bool()[:, None, None, :]


def causal(n: int, window: int | None = None) -> Tensor:
    """Return bool [n, n]: whether query t sees key s: not after it, less than `window` before."""
    back = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    return (back >= 0) & (back < (n if window is None else window))

"""Layers of many probes at once: H heads, K probes of each, which read the same vectors.

A layer is float32 [H, K, n_out, n_in + 1], the bias in the last column. A probe has one layer
(logistic regression), or two with a sigmoid between them (SentEval's MLP).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Passed(NamedTuple):
    """What a forward pass leaves.

    Attributes:
        logits: [H, K, C, B].
        hidden: [H, K, N, B], after the sigmoid; None without a hidden layer.
    """

    logits: Tensor
    hidden: Tensor | None


def forward(layers: list[Tensor], x: Tensor, noise: Tensor | None = None) -> Passed:
    """Compute the logits.

    Args:
        layers: one or two.
        x: [H, B, d].
        noise: [N, B], dropout's factors on the inputs of the sigmoid, as SentEval has it there.
    """
    first = _affine(layers[0].flatten(1, 2), x.mT).unflatten(1, layers[0].shape[1:3])
    if len(layers) == 1:
        return Passed(first, None)
    if noise is not None:
        first.mul_(noise)
    hidden = first.sigmoid_()
    logits = _affine(layers[1].flatten(0, 1), hidden.flatten(0, 1))
    return Passed(logits.unflatten(0, hidden.shape[:2]), hidden)


def backward(
    layers: list[Tensor], x: Tensor, passed: Passed, gradient: Tensor, noise: Tensor | None = None
) -> list[Tensor]:
    """Compute the gradients of the layers, shaped like them, from that of the logits."""
    if passed.hidden is None:
        return [_shared(gradient, x)]
    hidden, last = passed.hidden.flatten(0, 1), gradient.flatten(0, 1)
    own = _gradient(last, hidden.mT).unflatten(0, gradient.shape[:2])
    inner = torch.bmm(layers[1][..., :-1].flatten(0, 1).mT, last)
    inner.mul_(hidden).mul_(1 - hidden)
    inner = inner.unflatten(0, gradient.shape[:2])
    if noise is not None:
        inner.mul_(noise)
    return [_shared(inner, x), own]


def _affine(layer: Tensor, x: Tensor) -> Tensor:
    return torch.baddbmm(layer[..., -1:], layer[..., :-1], x)


def _shared(gradient: Tensor, x: Tensor) -> Tensor:
    """Of a layer whose K probes read the same x."""
    return _gradient(gradient.flatten(1, 2), x).unflatten(1, gradient.shape[1:3])


def _gradient(gradient: Tensor, x: Tensor) -> Tensor:
    n, n_out, _ = gradient.shape
    found = gradient.new_empty(n, n_out, x.shape[-1] + 1)
    found[..., :-1] = torch.bmm(gradient, x)
    torch.sum(gradient, -1, out=found[..., -1])
    return found

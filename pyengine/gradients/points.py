"""Points of paths, and what is found at them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Points(NamedTuple):
    """R points of paths, on the CPU.

    Attributes:
        items: int64 [R], the cloze.
        layers: int64 [R], counted through all stacks.
        alpha: float64 [R], how far from the baseline (0) to the activations (1).
    """

    items: Tensor
    layers: Tensor
    alpha: Tensor


class Evaluated(NamedTuple):
    """What was found at R points.

    Attributes:
        value: [R], F.
        gradient: [..., R, d_model], of F with respect to z.
        probability: [R], of the answer.
    """

    value: Tensor
    gradient: Tensor
    probability: Tensor


def points_on(layers: Tensor, items: Tensor, nodes: Tensor) -> Points:
    """Return all nodes on each of some paths, nodes fastest."""
    n = len(nodes)
    return Points(items.repeat_interleave(n), layers.repeat_interleave(n), nodes.repeat(len(items)))


def points_on_all(n_layers: int, n_items: int, nodes: Tensor) -> Points:
    """Return the same nodes on every path: layers slowest, nodes fastest."""
    layers = torch.arange(n_layers).repeat_interleave(n_items)
    return points_on(layers, torch.arange(n_items).repeat(n_layers), nodes)

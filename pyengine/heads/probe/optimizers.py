"""torch.optim's RMSprop and Adam with their defaults, for many probes, each with its own decay."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

EPSILON = 1e-8


class Optimizer(Protocol):
    """Changes layers step by step."""

    def step(self, gradients: list[Tensor], scale: float) -> None:
        """Make one step along `scale` times the gradients, weight decay added."""

    def select(self, taken: Callable[[Tensor], Tensor]) -> None:
        """Go on with some of the probes only."""


class RMSprop:
    """torch.optim.RMSprop: alpha 0.99, not centred, no momentum."""

    ALPHA = 0.99

    def __init__(self, layers: list[Tensor], decay: Tensor, rate: float) -> None:
        self.layers, self._decay, self._rate = layers, decay, rate
        self._squares = [torch.zeros_like(layer) for layer in layers]

    def step(self, gradients: list[Tensor], scale: float) -> None:
        for layer, gradient, squares in zip(self.layers, gradients, self._squares, strict=True):
            change = torch.mul(layer, self._decay).add_(gradient, alpha=scale)
            squares.mul_(self.ALPHA).addcmul_(change, change, value=1 - self.ALPHA)
            root = squares.sqrt().add_(EPSILON)
            layer.addcdiv_(change, root, value=-self._rate)

    def select(self, taken: Callable[[Tensor], Tensor]) -> None:
        self.layers, self._decay = [*map(taken, self.layers)], taken(self._decay)
        self._squares = [*map(taken, self._squares)]


class Adam:
    """torch.optim.Adam: betas 0.9 and 0.999."""

    BETAS = (0.9, 0.999)

    def __init__(self, layers: list[Tensor], decay: Tensor, rate: float) -> None:
        self.layers, self._decay, self._rate, self._steps = layers, decay, rate, 0
        self._means = [torch.zeros_like(layer) for layer in layers]
        self._squares = [torch.zeros_like(layer) for layer in layers]

    def step(self, gradients: list[Tensor], scale: float) -> None:
        self._steps += 1
        first, second = self.BETAS
        rate = self._rate / (1 - first**self._steps)
        correction = math.sqrt(1 - second**self._steps)
        states = zip(self.layers, gradients, self._means, self._squares, strict=True)
        for layer, gradient, mean, squares in states:
            change = torch.mul(layer, self._decay).add_(gradient, alpha=scale)
            mean.lerp_(change, 1 - first)
            squares.mul_(second).addcmul_(change, change, value=1 - second)
            root = squares.sqrt().div_(correction).add_(EPSILON)
            layer.addcdiv_(mean, root, value=-rate)

    def select(self, taken: Callable[[Tensor], Tensor]) -> None:
        self.layers, self._decay = [*map(taken, self.layers)], taken(self._decay)
        self._means, self._squares = [*map(taken, self._means)], [*map(taken, self._squares)]


KINDS: dict[str, type[RMSprop] | type[Adam]] = {"rmsprop": RMSprop, "adam": Adam}

"""Affine translators of a tuned lens (arXiv 2303.08112), trained on rows of the residual stream.

Of layer l: h + W h + b, W and b zero at first, so that training starts at the logit lens. The loss
is KL(model's own distribution ‖ that of the translated vector), in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyengine.checks import check_choice, check_count
from pyengine.errors import PyengineError
from pyengine.precision import precision
from pyengine.readout import Readout
from pyengine.shortcuts.linear_map import LinearMap

# What each optimiser starts with; `sgd` as the published lenses were trained.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"lr": 1e-3}),
    "sgd": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    ),
}


@dataclass(frozen=True)
class Training:
    """How translators are trained.

    Attributes:
        optimizer: `adam`, or `sgd` with Nesterov's momentum.
        lr: of the first step; it falls linearly, to 0 after the last. None: 1e-3, of `sgd` 0.1.
        weight_decay: draws W and b towards 0, the map towards the identity. None: 0, of `sgd`
            1e-3.
        epochs: how often every row is seen.
        batch_rows: rows of a step.
        clip: the largest norm of a layer's gradient.
        seed: of the order of the rows.
    """

    optimizer: str = "adam"
    lr: float | None = None
    weight_decay: float | None = None
    epochs: int = 50
    batch_rows: int = 256
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, tuple(OPTIMIZERS))
        check_count("epochs", self.epochs)
        check_count("batch_rows", self.batch_rows)
        for name in ("lr", "clip"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise PyengineError(f"{name} must be above 0, got {value}")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise PyengineError(f"weight_decay must be at least 0, got {self.weight_decay}")


def train_translators(
    read: Readout,
    states: Tensor,
    training: Training = Training(),  # frozen
    *,
    layers: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[int, LinearMap]:
    """Train a translator for each layer.

    A layer's map does not depend on which others are trained: all see the same rows in the same
    order, each with an optimiser and a clipping of its own.

    Args:
        read: how x_L is read as a distribution.
        states: [n, L + 1, d_model], rows of x_0 … x_L, on the model's device.
        training: how.
        layers: some of 0 … L - 1; None: all.
        on_progress: called with (steps done, in all).

    Returns:
        Of each layer the map to x_L, weight I + W.
    """
    n, n_points, d = states.shape
    layers = range(n_points - 1) if layers is None else layers
    n_steps = training.epochs * -(-n // training.batch_rows)
    generator, done = torch.Generator().manual_seed(training.seed), 0
    # Whoever calls may be in inference mode or under autocast, and may allow TF32.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(states.device.type, enabled=False),
        precision("float32"),
    ):
        states = states.clone() if states.is_inference() else states
        weight = read.weight.to(read.dtype)
        found = {layer: _Translator(d, states.device, training, n_steps) for layer in layers}
        for _ in range(training.epochs):
            order = torch.randperm(n, generator=generator).to(states.device)
            for rows in order.split(training.batch_rows):
                batch = states[rows]
                with torch.no_grad():
                    own = _log_probs(read, weight, batch[:, -1])
                for layer, translator in found.items():
                    mapped = _log_probs(read, weight, translator(batch[:, layer].float()))
                    translator.step((own.exp() * (own - mapped)).sum(1).mean())
                done += 1
                if on_progress is not None:
                    on_progress(done, n_steps)
    return {layer: translator.map() for layer, translator in found.items()}


class _Translator:
    """h + W h + b with its optimiser."""

    def __init__(self, d: int, device: torch.device, training: Training, n_steps: int) -> None:
        self._weight = torch.zeros(d, d, device=device, requires_grad=True)
        self._bias = torch.zeros(d, device=device, requires_grad=True)
        self._parameters, self._clip = [self._weight, self._bias], training.clip
        kind, defaults = OPTIMIZERS[training.optimizer]
        given = {"lr": training.lr, "weight_decay": training.weight_decay}
        given = {name: value for name, value in given.items() if value is not None}
        self._optimizer = kind(self._parameters, **{**defaults, **given})
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: 1 - step / n_steps
        )

    def __call__(self, h: Tensor) -> Tensor:
        return h + torch.nn.functional.linear(h, self._weight, self._bias)

    def step(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        # The model's own parameters get no gradients.
        loss.backward(inputs=self._parameters)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._optimizer.step()
        self._schedule.step()

    def map(self) -> LinearMap:
        weight = self._weight.detach()
        identity = torch.eye(len(weight), device=weight.device)
        return LinearMap(identity + weight, self._bias.detach().clone())


def _log_probs(read: Readout, weight: Tensor, x: Tensor) -> Tensor:
    """Read vectors [B, d_model] as log-probabilities [B, vocab_size], so that gradients flow."""
    x = x.to(read.dtype)
    for step in read.steps:
        x = step(x)
    return torch.nn.functional.linear(x, weight, read.bias).log_softmax(1)

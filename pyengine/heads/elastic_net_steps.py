"""Accelerated proximal gradient steps of several elastic-net probes side by side.

FISTA, with O'Donoghue and Candès' restarts, and steps that lengthen while the loss allows it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LOOK_EVERY = 10  # steps between two looks at the objective
POWER_STEPS = 50
GROW, SHRINK = 1.03, 0.7  # a step's length, from one step to the next

OnStep = Callable[[int, int], None]


class _State(NamedTuple):
    """Where some probes are: weights with their logits, and the same ahead of them.

    Attributes:
        here, ahead: [F + 1, G, C].
        logits, ahead_logits: [N, G, C].
        momentum: FISTA's t, [G].
        step: [G].
    """

    here: Tensor
    logits: Tensor
    ahead: Tensor
    ahead_logits: Tensor
    momentum: Tensor
    step: Tensor

    def kept(self, keep: Tensor) -> "_State":
        """Return those of some probes, bool [G]."""
        here, logits, ahead, ahead_logits = (tensor[:, keep] for tensor in self[:4])
        return _State(here, logits, ahead, ahead_logits, self.momentum[keep], self.step[keep])


def descend(
    x: Tensor,
    targets: Tensor,
    weights: Tensor,
    l1: Tensor,
    l2: Tensor,
    tolerance: float,
    max_steps: int,
    on_step: OnStep | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise over the features given, from `weights` on; probes leave as they end.

    Returns:
        Weights, steps and whether they ended before `max_steps`.
    """
    found, n_models = weights.clone(), len(l1)
    steps = torch.full((n_models,), max_steps, dtype=torch.int64, device=x.device)
    running = torch.arange(n_models, device=x.device)
    safe = 1 / _curvature(x)
    logits, one = logits_of(x, weights), x.new_ones(n_models)
    state = _State(weights, logits, weights, logits, one, safe * one)
    before = objective(logits, weights, targets, l1, l2)
    for count in range(1, max_steps + 1):
        state = _stepped(state, x, targets, l1[running], l2[running], safe)
        if count % LOOK_EVERY and count < max_steps:
            continue
        found[:, running] = state.here
        now = objective(state.logits, state.here, targets, l1[running], l2[running])
        keep = before - now > tolerance * now
        steps[running[~keep]] = count
        running, before, state = running[keep], now[keep], state.kept(keep)
        if on_step is not None:
            on_step(count, max_steps)
        if not len(running):
            break
    return found, steps, ~torch.isin(torch.arange(n_models, device=x.device), running)


def _stepped(
    state: _State, x: Tensor, targets: Tensor, l1: Tensor, l2: Tensor, safe: Tensor
) -> _State:
    """Take one step with every probe.

    A step's length grows while it is short enough: while the loss stays below the parabola that
    the step minimises, that is, while the mean KL divergence from the output ahead to the new
    one is at most ‖new − ahead‖² / (2 step). Else the probe stays, and tries a shorter one next
    time; `safe` is short enough anywhere.
    """
    here, logits, ahead, ahead_logits, momentum, step = state
    new = _shrunk(ahead - step[:, None] * slope(x, ahead_logits, targets), step * l1, step * l2)
    new_logits = logits_of(x, new)
    way = new - ahead
    short = _divergence(ahead_logits, new_logits) <= way.square().sum((0, 2)) / (2 * step)
    good = short | (step <= safe)
    # Momentum that points uphill starts anew.
    uphill = (way * (here - new)).sum((0, 2)) > 0
    after = (1 + (1 + 4 * momentum**2).sqrt()) / 2
    push = torch.where(uphill, 0, (momentum - 1) / after)[:, None]
    kept = good[:, None]
    return _State(
        torch.where(kept, new, here),
        torch.where(kept, new_logits, logits),
        torch.where(kept, new + push * (new - here), ahead),
        # Logits are linear in the weights.
        torch.where(kept, new_logits + push * (new_logits - logits), ahead_logits),
        torch.where(good, torch.where(uphill, 1, after), momentum),
        torch.where(good, step * GROW, torch.maximum(step * SHRINK, safe)),
    )


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean KL divergence between the outputs of two logits [N, G, C], [G]."""
    p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean(0).to(first.dtype)


def objective(logits: Tensor, weights: Tensor, targets: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """Return the objectives, float64 [G]."""
    at_target = logits[torch.arange(len(targets), device=targets.device), :, targets]
    loss = (logits.logsumexp(-1) - at_target).double().mean(0)
    penalised = weights[:-1].double()
    return loss + l1 * penalised.abs().sum((0, 2)) + l2 * penalised.square().sum((0, 2))


def slope(x: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the derivative of the mean cross-entropy by the weights, [F + 1, G, C]."""
    errors = logits.softmax(-1)
    errors[torch.arange(len(targets), device=targets.device), :, targets] -= 1
    return (x.T @ errors.flatten(1)).unflatten(1, logits.shape[1:]) / len(targets)


def logits_of(x: Tensor, weights: Tensor) -> Tensor:
    """Return [N, G, C]."""
    return (x @ weights.flatten(1)).unflatten(1, weights.shape[1:])


def _shrunk(values: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """Minimise ½ ‖w − values‖² + l1 ‖w‖₁ + l2 ‖w‖₂²; the bias, in the last row, stays."""
    first, second = l1[:, None], l2[:, None]
    found = values.sign() * (values.abs() - first).clamp(min=0) / (1 + 2 * second)
    found[-1] = values[-1]
    return found


def _curvature(x: Tensor) -> Tensor:
    """Bound the second derivative of the mean cross-entropy: σ²max(x) / 2N, by power iteration.

    The Hessian of a softmax is at most ½. 5 % are added, for the iteration comes from below.
    """
    one = x.new_ones(x.shape[1])
    one[::2] = -1  # not orthogonal to anything that data have by design
    for _ in range(POWER_STEPS):
        one = x.T @ (x @ (one / one.norm()))
    return 1.05 * one.norm() / (2 * len(x))

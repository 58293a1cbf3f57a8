"""The elastic-net probe of Durrani et al. 2020 (arXiv 2010.02695): which neurons tell classes.

Minimises, over weights W [F, C] and a bias that is not penalised,

    mean cross-entropy + λ1 ‖W‖₁ + λ2 ‖W‖₂²

for several (λ1, λ2) at once, by accelerated proximal gradient steps over a working set of features
that grows until no other feature could lower the objective. Nothing is drawn at random: the same
input gives the same bits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.heads.elastic_net_steps import OnStep, descend, logits_of, objective, slope

FIRST_FEATURES = 512  # in the first working set
FEW_STEPS = 50  # in a working set, before others are let in
# A feature outside the working set must ask for so much more than λ1 to enter it: the gradient is
# known only as well as the features inside have settled.
SLACK = 0.01


class ElasticNet(NamedTuple):
    """Fitted probes, one for each of G pairs of penalties.

    Attributes:
        weights: [F + 1, G, C], of the standardised features; the last row is the bias.
        objective: float64 [G].
        steps: int64 [G], taken in all.
        converged: bool [G]: ten steps lowered the objective by less than the tolerance.
        violation: float64 [G], how far the worst coordinate is from optimal: the distance of 0
            from the subdifferential there; 0 at the minimum.
    """

    weights: Tensor
    objective: Tensor
    steps: Tensor
    converged: Tensor
    violation: Tensor


def fit_elastic_net(
    x: Tensor,
    targets: Tensor,
    n_classes: int,
    l1: Sequence[float],
    l2: Sequence[float],
    *,
    tolerance: float = 1e-6,
    max_steps: int = 5000,
    on_step: OnStep | None = None,
) -> ElasticNet:
    """Fit a probe for each pair of penalties.

    A probe ends when ten steps have lowered its objective by less than `tolerance` times itself,
    or after `max_steps` in the last working set. All work is done in x's dtype, objectives in
    float64.

    Args:
        x: [N, F + 1], centred features and a last column of ones.
        targets: int64 [N], classes.
        n_classes: C.
        l1: λ1 of each probe, [G].
        l2: λ2 of each probe, [G].
        tolerance: relative.
        max_steps: of the last working set.
        on_step: called with (steps taken in a working set, most that may be).
    """
    first, second = (torch.tensor(values, dtype=x.dtype, device=x.device) for values in (l1, l2))
    weights = x.new_zeros(x.shape[1], len(l1), n_classes)
    steps = torch.zeros(len(l1), dtype=torch.int64, device=x.device)
    converged = torch.ones(len(l1), dtype=torch.bool, device=x.device)
    inside = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    inside[-1] = True
    gradient = slope(x, logits_of(x, weights), targets)
    entering = _steepest(gradient, inside, torch.zeros_like(first))
    while len(entering) or not converged.all():
        inside[entering] = True
        chosen = inside.nonzero()[:, 0]
        part = x if inside.all() else x[:, chosen]
        most = FEW_STEPS if len(entering) else max_steps
        weights[chosen], taken, converged = descend(
            part, targets, weights[chosen], first, second, tolerance, most, on_step
        )
        steps += taken
        gradient = slope(x, logits_of(x, weights), targets)
        entering = _steepest(gradient, inside, first)
        if most == max_steps and not converged.all():
            break
    violation = _violation(gradient, weights, first, second)
    lowest = objective(logits_of(x, weights), weights, targets, first, second)
    return ElasticNet(weights, lowest, steps, converged, violation)


def _steepest(gradient: Tensor, inside: Tensor, l1: Tensor) -> Tensor:
    """Return the features to add: those that would lower an objective, the steepest first.

    The working set at most doubles, but begins with `FIRST_FEATURES`.
    """
    excess = (gradient.abs() - l1[:, None] * (1 + SLACK)).amax((1, 2))
    excess[inside] = 0
    room = max(FIRST_FEATURES, int(inside.sum()))
    return excess.topk(min(int((excess > 0).sum()), room)).indices


def _violation(gradient: Tensor, weights: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    first, second = l1[:, None].expand_as(weights).clone(), l2[:, None]
    first[-1] = 0
    smooth = gradient + 2 * second * torch.cat([weights[:-1], torch.zeros_like(weights[-1:])])
    zero = weights == 0
    away = torch.where(zero, smooth.abs() - first, (smooth + first * weights.sign()).abs())
    return away.clamp(min=0).double().amax((0, 2))

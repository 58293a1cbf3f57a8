"""Neurons ranked by the weights of an elastic-net probe, and what the ranking is worth.

Durrani et al. 2020, "Analyzing Individual Neurons in Pre-trained Language Models" (arXiv
2010.02695): the ranking of §2.2, the ablation and the minimal set of §4.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyengine.heads.neuron_features import Part
from pyengine.heads.neuron_probe import fit_elastic_net

ABLATED = 0.2  # share of the neurons that is kept alone
DRAWS = 5  # of random neurons, whose mean accuracy is the baseline
ENOUGH = 0.99  # of the accuracy of all neurons
SIZES = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))


class Penalties(NamedTuple):
    """Weights of ‖W‖₁ and ‖W‖₂²."""

    l1: float
    l2: float


def entry_shares(weights: np.ndarray) -> np.ndarray:
    """Return the share of a class's weight from which on each neuron belongs to the chosen ones.

    For each class, neurons are taken by |weight|, the largest first, until they cover a share of
    the class's total. A neuron's share is the smallest at which any class takes it: the share that
    those before it cover, 0 for the first of a class. A neuron without weight is never needed: 1.

    Args:
        weights: [F, C].

    Returns:
        float64 [F].
    """
    sizes = np.abs(weights.astype(np.float64))
    order = np.argsort(-sizes, axis=0, kind="stable")
    sorted_sizes = np.take_along_axis(sizes, order, 0)
    before = np.cumsum(sorted_sizes, 0) - sorted_sizes
    total = sizes.sum(0)
    covered = np.divide(before, total, out=np.ones_like(before), where=total > 0)
    shares = np.empty_like(sizes)
    np.put_along_axis(shares, order, np.minimum(covered, 1), 0)
    return np.where(sizes > 0, shares, 1.0).min(1)


def ranked(weights: np.ndarray) -> np.ndarray:
    """Return the neurons, best first, int64 [F].

    By `entry_shares`; ties: the larger part of a class's weight, then the lower number. Those
    without weight come last.
    """
    sizes = np.abs(weights.astype(np.float64))
    parts = np.divide(sizes, sizes.sum(0), out=np.zeros_like(sizes), where=sizes.sum(0) > 0)
    order: np.ndarray = np.lexsort([-parts.max(1), entry_shares(weights)])
    return order


def predict(x: Tensor, weights: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return the classes that one probe gives, int64 [N]; ties: the first.

    Args:
        x: [N, F + 1], as it was fitted on.
        weights: [F + 1, C].
        keep: bool [F]; of the other features, the weights count as zero.
    """
    if keep is not None:
        weights = torch.cat([weights[:-1] * keep[:, None].to(weights.dtype), weights[-1:]])
    return (x @ weights).argmax(-1)


def accuracy(part: Part, weights: Tensor, keep: Tensor | None = None) -> float:
    """Return the share of examples that are told right, in percent to two places."""
    right = (predict(part.x, weights, keep) == part.targets).double().mean()
    return round(100 * float(right), 2)


def ablate(part: Part, weights: Tensor, order: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the accuracy with a fifth of the neurons alone, without training again.

    The activations of all others are put to their means on train: standardised, to zero.

    Args:
        part: to be told.
        weights: [F + 1, C].
        order: the neurons, best first.
        seed: of the random neurons.

    Returns:
        `top`, `bottom` (among those with and without weight alike) and `random`, the mean over
        five draws.
    """
    n = max(1, round(ABLATED * len(order)))
    generator = np.random.default_rng(seed)
    draws = [generator.permutation(order)[:n] for _ in range(DRAWS)]
    drawn = [accuracy(part, weights, _mask(chosen, part)) for chosen in draws]
    return {
        "top": accuracy(part, weights, _mask(order[:n], part)),
        "bottom": accuracy(part, weights, _mask(order[-n:], part)),
        "random": round(sum(drawn) / DRAWS, 2),
    }


def minimal_set(
    parts: dict[str, Part],
    order: np.ndarray,
    n_classes: int,
    penalties: Penalties,
    oracle: float,
) -> dict[str, float]:
    """Find how few of the best neurons are as good as all, training anew on these alone.

    Tried are 1, 2, 5, 10, 20, 50, ... neurons, up to all, until the accuracy on dev is at least
    99 % of the oracle's.

    Args:
        parts: train, dev and test.
        order: the neurons with weight, best first.
        n_classes: C.
        penalties: those of the oracle, the probe of all neurons.
        oracle: its accuracy on dev.

    Returns:
        `n`, `dev` and `test`; `n` is `len(order)` where no fewer do.
    """
    sizes = [n for n in SIZES if n < len(order)] + [len(order)]
    found: dict[str, float] = {}
    for n in sizes:
        few = {name: _of(part, order[:n]) for name, part in parts.items()}
        train = few["train"]
        fit = fit_elastic_net(train.x, train.targets, n_classes, *zip(penalties, strict=True))
        dev, test = (accuracy(few[name], fit.weights[:, 0]) for name in ("dev", "test"))
        found = {"n": n, "dev": dev, "test": test}
        if dev >= ENOUGH * oracle:
            break
    return found


def overlap(n_neurons: int, n_top: int, n_others: int, n_common: int) -> dict[str, float]:
    """Say whether two sets of neurons have more in common than chance would give them.

    Args:
        n_neurons: to choose from.
        n_top: in the first set.
        n_others: in the second.
        n_common: in both.

    Returns:
        `n_common`, `expected` of two random sets, and `probability` of so many or more, from the
        hypergeometric distribution.
    """
    high = min(n_top, n_others)
    whole = _log_choose(n_neurons, n_top)
    terms = [
        math.exp(_log_choose(n_others, k) + _log_choose(n_neurons - n_others, n_top - k) - whole)
        for k in range(max(n_common, n_top + n_others - n_neurons), high + 1)
    ]
    return {
        "n_common": n_common,
        "expected": n_top * n_others / n_neurons,
        "probability": min(1.0, math.fsum(terms)),
    }


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _mask(chosen: Sequence[int] | np.ndarray, part: Part) -> Tensor:
    keep = torch.zeros(part.x.shape[1] - 1, dtype=torch.bool, device=part.x.device)
    keep[torch.as_tensor(chosen, device=keep.device)] = True
    return keep


def _of(part: Part, chosen: np.ndarray) -> Part:
    columns = torch.as_tensor(np.append(chosen, part.x.shape[1] - 1), device=part.x.device)
    return Part(part.x[:, columns], part.targets)

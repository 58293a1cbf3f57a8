"""Sets of neurons: which stand out in one prompt, in several, in a relation.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers", §3.2.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyengine.errors import PyengineError

ADAPTIVE = 0.3  # share of the largest score of a prompt

# Dai et al.'s search for the share of a relation's prompts that must agree.
FIRST_SHARE, SHARE_STEP, SHARE_STEPS = 0.7, 0.05, 6
WANTED_SIZE = (2, 5)
MIN_PROMPTS = 3


class Neuron(NamedTuple):
    """A feed-forward neuron; layers count through all stacks, T5's encoder first."""

    layer: int
    dim: int


def coarse_neurons(
    scores: Tensor,
    *,
    threshold: float | None = None,
    adaptive: float | None = None,
    percentile: float | None = None,
) -> list[Neuron]:
    """Return the neurons of one prompt whose score is above a threshold; equal is not above.

    Args:
        scores: [n_layers, d_ff].
        threshold: absolute.
        adaptive: relative to the largest score of the prompt; none is found where that is not
            above 0.
        percentile: of all scores of the prompt, 0 to 100, linearly interpolated.

    Returns:
        In order of layer, then dim.

    Raises:
        PyengineError: unless exactly one of the three is given, and in range.
    """
    check_selector(threshold, adaptive, percentile)
    if not scores.numel():
        return []
    if adaptive is not None:
        largest = float(scores.max())
        if not largest > 0:
            return []
        limit = largest * adaptive
    elif percentile is not None:
        limit = float(np.percentile(scores.cpu().numpy(), percentile))
    else:
        assert threshold is not None
        limit = threshold
    return [Neuron(*pair) for pair in torch.nonzero(scores > limit).tolist()]


def selector(
    threshold: float | None, adaptive: float | None, percentile: float | None
) -> dict[str, float | None]:
    """Return settings of `coarse_neurons`, checked before any work; none given: adaptive=0.3.

    Raises:
        PyengineError: unless one is given at most, and in range.
    """
    if threshold is None and adaptive is None and percentile is None:
        adaptive = ADAPTIVE
    check_selector(threshold, adaptive, percentile)
    return {"threshold": threshold, "adaptive": adaptive, "percentile": percentile}


def check_selector(
    threshold: float | None, adaptive: float | None, percentile: float | None
) -> None:
    """Refuse settings of `coarse_neurons` that do not say where to cut, before any work.

    Raises:
        PyengineError: unless exactly one is given, and in range.
    """
    if sum(value is not None for value in (threshold, adaptive, percentile)) != 1:
        raise PyengineError("give exactly one of threshold, adaptive and percentile")
    if adaptive is not None and not 0 <= adaptive <= 1:
        raise PyengineError(f"adaptive is a share of the largest score, 0 to 1, got {adaptive}")
    if percentile is not None and not 0 <= percentile <= 100:
        raise PyengineError(f"percentile must be from 0 to 100, got {percentile}")


def shared_neurons(sets: Sequence[Iterable[Neuron]], share: float) -> list[Neuron]:
    """Return the neurons in more than `share` of the sets, in order of first appearance.

    Raises:
        PyengineError: unless 0 <= share < 1.
    """
    if not 0 <= share < 1:
        raise PyengineError(f"share must be from 0 to below 1, got {share}")
    counts = Counter(neuron for found in sets for neuron in dict.fromkeys(found))
    return [neuron for neuron, count in counts.items() if count > len(sets) * share]


def tuned_share(
    facts: Sequence[Sequence[Collection[Neuron]]],
) -> tuple[float, list[list[Neuron]]]:
    """Choose the share of a relation as Dai et al.'s code does, and refine its facts with it.

    From 0.7 on, the share (at least, not above, this part of the prompts) is moved by 0.05, up to
    six times, until a fact has 2 to 5 neurons on average. Facts with fewer than three prompts do
    not count and get none.

    Args:
        facts: per fact, the coarse neurons of each of its prompts.

    Returns:
        The share, and the neurons of every fact.
    """
    enough = [sets for sets in facts if len(sets) >= MIN_PROMPTS]
    share = FIRST_SHARE
    for _ in range(SHARE_STEPS if enough else 0):
        mean = sum(len(_at_least(sets, share)) for sets in enough) / len(enough)
        if WANTED_SIZE[0] <= mean <= WANTED_SIZE[1]:
            break
        share = round(share + (SHARE_STEP if mean > WANTED_SIZE[1] else -SHARE_STEP), 2)
    return share, [_at_least(sets, share) if len(sets) >= MIN_PROMPTS else [] for sets in facts]


def relation_neurons(facts: Sequence[Iterable[Neuron]], share: float = 0.1) -> dict[Neuron, int]:
    """Return the neurons in at least `share` of a relation's facts, and in how many they are.

    The commonest first; ties: lower layer, then lower dim. Dai et al. erase these, and leave them
    alone where single facts are edited.
    """
    counts = Counter(neuron for found in facts for neuron in set(found))
    common = [neuron for neuron, count in counts.items() if count >= len(facts) * share]
    common.sort(key=lambda neuron: (-counts[neuron], neuron))
    return {neuron: counts[neuron] for neuron in common}


def _at_least(sets: Sequence[Collection[Neuron]], share: float) -> list[Neuron]:
    counts = Counter(neuron for found in sets for neuron in dict.fromkeys(found))
    return [neuron for neuron, count in counts.items() if count >= len(sets) * share]

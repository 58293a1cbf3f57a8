"""Early exit: where each sample would stop, for any threshold, from one ledger and no model pass.

Schuster et al. 2022 ("CALM"), softmax response, as "Jump to Conclusions" uses it: stop at the first
layer whose two most probable tokens are further apart than

    θ(l, t) = 0.9 λ + 0.1 exp(-4 t / N),        θ(0, t) = 2: never at layer 0,

t being the token's position in what the model reads, from 0, and N the mean of t + 1 over the
samples. (The original's script for BERT has t = 3 for every sample; here it is the token's own.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The thresholds of the original: the first stops every sample at layer 1, the last none before L.
LAMBDAS = (-1.112, *(step / 10 for step in range(11)), 1.112)
# It asks the identity at nine more, evenly inside (1, 1.112): there its distributions are sure.
IDENTITY_LAMBDAS = (*LAMBDAS[:-1], *(1 + 0.0112 * step for step in range(1, 10)), LAMBDAS[-1])

NEVER = 2.0  # no two probabilities are that far apart


@dataclass(frozen=True)
class ExitRule:
    """When to stop.

    Attributes:
        lam: λ.
        mean_length: N.
    """

    lam: float
    mean_length: float

    def threshold(self, layer: Any, position: Any) -> Tensor:
        """Return θ(l, t), float64, in the shape that layers and positions broadcast to."""
        layer, position = torch.as_tensor(layer), torch.as_tensor(position)
        decayed = 0.1 * torch.exp(-4 * position.double() / self.mean_length)
        return torch.where(layer < 1, NEVER, 0.9 * self.lam + decayed)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was predicted where samples stopped.

    Attributes:
        layers: int64 [n], where: the number of blocks that were run.
        top: integer [n, K], the best tokens there, best first; -1 where a logit is NaN.
        surprisal: float32 [n], -ln p of the best of them under the model's own output, nats.
        final: integer [n, K], the best tokens of the model's own output.
    """

    layers: Tensor
    top: Tensor
    surprisal: Tensor
    final: Tensor

    def hits(self, k: int = 1) -> Tensor:
        """Say, bool [n], whether the best token is among the k best of the model's own output."""
        best = self.top[:, :1]
        return ((self.final[:, :k] == best) & (best >= 0)).any(1)


@dataclass(frozen=True, eq=False)
class Ledger:
    """What one mapping reads from every sample at every layer.

    Attributes:
        gap: float32 [n, L + 1], probability of the most probable token less that of the next.
        top: integer [n, L + 1, K], the best tokens, best first; at L those of the model itself.
        surprisal: float32 [n, L + 1], -ln p of the best token under the model's own output.
        units: int64 [n], the sentence that each sample is from, ascending.
        positions: int64 [n], of the token among the sentence's content, from 0.
        first: tokens that the model reads before the content: t = position + first.
    """

    gap: Tensor
    top: Tensor
    surprisal: Tensor
    units: Tensor
    positions: Tensor
    first: int = 0

    @classmethod
    def of_scores(
        cls, scores: Mapping[str, np.ndarray], units: Tensor, positions: Tensor, first: int
    ) -> "Ledger":
        """Take one mapping's scores, with layers before samples, as `score_maps` returns them."""
        names = ("gap", "top_tokens", "surprisal")
        gap, top, surprisal = (torch.from_numpy(scores[name]).transpose(0, 1) for name in names)
        return cls(gap, top, surprisal, units, positions, first)

    @property
    def n_layers(self) -> int:
        """L."""
        return self.gap.shape[1] - 1

    @property
    def mean_length(self) -> float:
        """N, the mean of t + 1."""
        return float((self.positions + self.first + 1).double().mean())

    def rule(self, lam: float) -> ExitRule:
        """Return the rule for a λ."""
        return ExitRule(lam, self.mean_length)

    def exits(self, lam: float) -> Tensor:
        """Return the layer at which each sample stops, int64 [n]; L where it never does."""
        layers = torch.arange(self.n_layers + 1)
        bar = self.rule(lam).threshold(layers, (self.positions + self.first)[:, None])
        stops = self.gap.double() > bar
        stops[:, -1] = True
        return stops.int().argmax(1)  # the first of equals

    def adaptive(self, lam: float) -> Outcome:
        """Return what is predicted if every sample stops by the rule for λ."""
        return self._at(self.exits(lam))

    def fixed(self, layer: int) -> Outcome:
        """Return what is predicted if every sample stops at a layer."""
        return self._at(torch.full_like(self.positions, layer))

    def _at(self, layers: Tensor) -> Outcome:
        rows = torch.arange(len(layers))
        return Outcome(
            layers, self.top[rows, layers], self.surprisal[rows, layers], self.top[:, -1]
        )

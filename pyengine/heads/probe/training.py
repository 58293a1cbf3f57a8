"""Many probes trained at once, each stopped when SentEval would stop it.

All read the same minibatches. What a probe comes to depends on how many are trained beside it only
in the last bits of its products.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyengine.heads.probe.goals import Goal
from pyengine.heads.probe.initial_weights import initial_weights
from pyengine.heads.probe.layers import backward, forward
from pyengine.heads.probe.minibatches import Minibatches
from pyengine.heads.probe.optimizers import KINDS
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.precision import precision

# Of the minibatch and the logits that a step works on: what a core's cache holds; on a GPU enough
# to be busy.
STEP_BYTES = {"cpu": 4 << 20, "cuda": 2 << 30}


class Trained(NamedTuple):
    """H × R probes, as they were when the dev set liked them best.

    Attributes:
        scores: float64 [H, R], best dev scores.
        looks: int64 [H, R], how often dev was looked at.
        layers: float32 [H, R, n_out, n_in + 1] each, on the device.
    """

    scores: np.ndarray
    looks: np.ndarray
    layers: list[Tensor]


class Probes:
    """Trains probes of H heads, and asks them.

    Attributes:
        features: float32 [n, H, d], of all examples of a task, on the device.
        goal: their targets.
        settings: of the training.
    """

    def __init__(
        self,
        features: Tensor,
        goal: Goal,
        settings: ProbeSettings,
        on_stop: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.features, self.goal, self.settings = features, goal, settings
        self.on_stop = on_stop

    @property
    def device(self) -> torch.device:
        return self.features.device

    @torch.no_grad()
    def train(self, train: np.ndarray, dev: np.ndarray | None, decay: np.ndarray) -> Trained:
        """Train one probe for each weight decay.

        Args:
            train: indices of examples, int64.
            dev: of those that decide when to stop; None: a twentieth of `train`.
            decay: float64 [H, R].
        """
        with precision("float32"):
            return _Training(self, Minibatches(train, dev, self.settings.seed), decay).run()

    @torch.no_grad()
    def predict(self, layers: list[Tensor], index: Tensor, heads: Tensor) -> Tensor:
        """Return what probes [H, K] of some heads say of some examples, [H, K, n]."""
        n_heads, n_probes = layers[0].shape[:2]
        outputs = sum(layer.shape[2] for layer in layers)
        row = 4 * n_heads * (self.features.shape[2] + 2 * n_probes * outputs)
        n_rows = max(1, STEP_BYTES[self.device.type] // row)
        blocks = index.split(n_rows)
        with precision("float32"):
            found = [self._predicted(layers, block, heads) for block in blocks]
        return torch.cat(found, dim=-1)

    def _predicted(self, layers: list[Tensor], index: Tensor, heads: Tensor) -> Tensor:
        return self.goal.predicted(forward(layers, self.gathered(index, heads)).logits)

    def gathered(self, index: Tensor, heads: Tensor) -> Tensor:
        """Return the features of some examples and heads, [H, B, d]."""
        _, n_heads, width = self.features.shape
        rows = (index[None, :] * n_heads + heads[:, None]).flatten()
        taken = self.features.view(-1, width).index_select(0, rows)
        return taken.view(len(heads), len(index), width)


class _Training:
    """One run. Probes that still train are [H', K]; those of a head that have stopped make room."""

    def __init__(self, probes: Probes, batches: Minibatches, decay: np.ndarray) -> None:
        self.probes, self.settings, self.batches = probes, probes.settings, batches
        device, (n_heads, n_probes) = probes.device, decay.shape
        hidden, width = self.settings.hidden, probes.features.shape[2]
        widths = [width, *([hidden] if hidden else []), probes.goal.n_outputs]
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        start = [layer.to(device) for layer in initial_weights(widths, self.generator)]
        layers = [layer.repeat(n_heads, n_probes, 1, 1) for layer in start]
        decays = torch.as_tensor(decay, dtype=torch.float32).to(device)[..., None, None]
        self.optimizer = KINDS[self.settings.optimizer](layers, decays, self.settings.learning_rate)
        self.best = Trained(
            np.full(decay.shape, -1.0),
            np.zeros(decay.shape, np.int64),
            [layer.clone() for layer in layers],
        )
        self.dev = torch.from_numpy(batches.dev).to(device)
        # Whose the probes in training are: a head each row, a column of `decay` each entry.
        self.heads = np.arange(n_heads)
        self.columns = np.tile(np.arange(n_probes), (n_heads, 1))
        self.live = np.ones(decay.shape, bool)
        self.misses = np.zeros(decay.shape, np.int64)  # looks without a new best so far

    def run(self) -> Trained:
        n_epochs = 0
        while self.live.any() and n_epochs <= self.settings.max_epochs:
            heads = torch.from_numpy(self.heads).to(self.probes.device)
            for _ in range(self.settings.epoch_size):
                self._epoch(heads)
            n_epochs += self.settings.epoch_size
            self._look(heads)
            self._make_room()
        self.probes.on_stop(int(self.live.sum()))
        return self.best

    def _epoch(self, heads: Tensor) -> None:
        order = torch.from_numpy(self.batches.epoch())
        order = order.to(self.probes.device, non_blocking=True)
        indices = order.split(self.settings.batch_size)
        for index, noise in zip(indices, self._noise([*map(len, indices)]), strict=True):
            x = self.probes.gathered(index, heads)
            parts = [self._gradients(layers, x, index, noise) for layers in self._parts(len(index))]
            gradients = [torch.cat(of, dim=1) for of in zip(*parts, strict=True)]
            self.optimizer.step(gradients, 1 / len(index))

    def _parts(self, n: int) -> list[list[Tensor]]:
        """Cut the layers into columns of probes, so many that their logits stay in the cache.

        All at once, unless there are very many classes.
        """
        layers, device = self.optimizer.layers, self.probes.device
        one = 8 * n * len(layers[0]) * sum(layer.shape[2] for layer in layers)
        columns = max(1, STEP_BYTES[device.type] // one)
        return [[*of] for of in zip(*(layer.split(columns, 1) for layer in layers), strict=True)]

    def _gradients(
        self, layers: list[Tensor], x: Tensor, index: Tensor, noise: Tensor | None
    ) -> list[Tensor]:
        passed = forward(layers, x, noise)
        gradient = self.probes.goal.gradient(passed.logits, index)
        return backward(layers, x, passed, gradient, noise)

    def _noise(self, sizes: list[int]) -> list[Tensor | None]:
        """Draw the dropout of an epoch, [N, B] each, as nn.Dropout does on the CPU."""
        kept, hidden = 1 - self.settings.dropout, self.settings.hidden
        if not hidden or kept == 1:
            return [None] * len(sizes)
        drawn = [torch.empty(n, hidden).bernoulli_(kept, generator=self.generator) for n in sizes]
        noise = torch.cat(drawn).div_(kept).to(self.probes.device, non_blocking=True)
        return [part.mT for part in noise.split(sizes)]

    def _look(self, heads: Tensor) -> None:
        layers = self.optimizer.layers
        said = self.probes.predict(layers, self.dev, heads)
        scores = self.probes.goal.score(said, self.dev)
        at = self.heads[:, None], self.columns
        self.best.looks[at] += self.live
        better = self.live & (scores > self.best.scores[at])
        rows, slots = better.nonzero()
        mine = self.heads[rows], self.columns[rows, slots]
        self.best.scores[mine] = scores[better]
        for best, layer in zip(self.best.layers, layers, strict=True):
            best[mine] = layer[rows, slots]
        missed = self.live & ~better
        stopped = missed & (self.misses[at] >= self.settings.tenacity)
        self.misses[at] += missed
        self.live &= ~stopped
        self.probes.on_stop(int(stopped.sum()))

    def _make_room(self) -> None:
        """Drop heads whose probes have all stopped, and columns that none needs any more."""
        n_live = self.live.sum(1)
        heads, n_columns = n_live.nonzero()[0], n_live.max()
        if not len(heads) or (len(heads), n_columns) == self.live.shape:
            return
        slots = np.argsort(~self.live[heads], axis=1, kind="stable")[:, :n_columns]
        at = heads[:, None], slots
        self.heads, self.columns, self.live = self.heads[heads], self.columns[at], self.live[at]
        self.optimizer.select(lambda state: state[at])

"""What probes are trained for: the loss at their outputs, what they say, and how good that is."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pyengine.heads.correlations import pearson


class Goal(Protocol):
    """The targets of all examples; `index` names some of them, int64 [B]."""

    n_outputs: int

    def gradient(self, logits: Tensor, index: Tensor) -> Tensor:
        """Return B times the gradient of the mean loss at the logits [H, K, C, B]."""

    def predicted(self, logits: Tensor) -> Tensor:
        """Return what is said of each example, [H, K, B]."""

    def score(self, predictions: Tensor, index: Tensor) -> np.ndarray:
        """Return how good predictions [H, K, B] are, float64 [H, K], higher is better."""


class Classes:
    """One of several classes: cross-entropy, accuracy."""

    def __init__(self, targets: np.ndarray, n_classes: int, device: torch.device) -> None:
        self.n_outputs = n_classes
        self._targets = torch.as_tensor(targets, dtype=torch.int64).to(device)
        self._classes = torch.arange(n_classes, dtype=torch.int32, device=device)[:, None]

    def gradient(self, logits: Tensor, index: Tensor) -> Tensor:
        wanted = logits.new_zeros(self.n_outputs, len(index))
        wanted.scatter_(0, self._targets.index_select(0, index)[None], 1.0)
        return torch.softmax(logits, dim=2).sub_(wanted)

    def predicted(self, logits: Tensor) -> Tensor:
        """Return the class of the highest logit, the first of several, int64."""
        # argmax over a middle dimension is many times slower on the CPU.
        below = logits < logits.amax(2, keepdim=True)
        return torch.where(below, self.n_outputs, self._classes).amin(2).long()

    def score(self, predictions: Tensor, index: Tensor) -> np.ndarray:
        right: Tensor = (predictions == self._targets[index]).sum(-1)
        return right.cpu().numpy() / len(index)


class SoftLabels:
    """A score: squared error of a softmax over 1 … n_scores, Pearson's correlation."""

    def __init__(self, scores: np.ndarray, n_scores: int, device: torch.device) -> None:
        self.n_outputs = n_scores
        self._scores = scores
        self._labels = torch.from_numpy(soft_labels(scores, n_scores).T.copy()).to(device)
        self._values = torch.arange(1, n_scores + 1, dtype=torch.float64, device=device)[:, None]

    def gradient(self, logits: Tensor, index: Tensor) -> Tensor:
        found = torch.softmax(logits, dim=2)
        error = found - self._labels.index_select(1, index)
        mean = (found * error).sum(2, keepdim=True)
        return error.sub_(mean).mul_(found).mul_(2 / self.n_outputs)

    def predicted(self, logits: Tensor) -> Tensor:
        """Return the expected score, float64."""
        return (torch.softmax(logits, dim=2).double() * self._values).sum(2)

    def score(self, predictions: Tensor, index: Tensor) -> np.ndarray:
        said, wanted = predictions.cpu().numpy(), self._scores[index.cpu().numpy()]
        return pearson(said.reshape(-1, len(wanted)).T, wanted).reshape(said.shape[:2])


def soft_labels(scores: np.ndarray, n_scores: int) -> np.ndarray:
    """Spread scores over the whole ones around them: 3.6 is 0.4 of 3 and 0.6 of 4.

    As in SentEval, nothing stands for scores below 1: 0.4 becomes (0.4, 0, …), and 0 all zeros,
    although a softmax always sums to 1.

    Returns:
        float32 [n, n_scores].
    """
    scores = np.asarray(scores, np.float64)
    below, places = np.floor(scores)[:, None], np.arange(1, n_scores + 1)
    above = scores[:, None] - below
    found = np.where(places == below + 1, above, 0.0) + np.where(places == below, 1 - above, 0.0)
    return found.astype(np.float32)

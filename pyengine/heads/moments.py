"""Sums of vectors, of their products, and of both by target: all that a closed form needs."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyengine.heads.probe.features import Vectors, features

ROWS = 2048  # read, widened and summed together


@dataclass(frozen=True)
class Moments:
    """Sums over some examples, float64.

    Attributes:
        n: how many examples.
        targets: [C], examples of each class; of scores [1], their sum.
        sums: [H, d], of the vectors.
        gram: [H, d, d], of their outer products.
        cross: [H, d, C], sums of the vectors of each class; of scores [H, d, 1], of score · vector.
    """

    n: int
    targets: Tensor
    sums: Tensor
    gram: Tensor
    cross: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.n + other.n,
            self.targets + other.targets,
            self.sums + other.sums,
            self.gram + other.gram,
            self.cross + other.cross,
        )

    def centred(self) -> tuple[Tensor, Tensor]:
        """Return the Gram and cross products of what is left when means are taken off."""
        means = self.sums / self.n
        gram = self.gram - means[:, :, None] * self.sums[:, None, :]
        return gram, self.cross - means[:, :, None] * self.targets


def moments_of(
    x: Vectors, rows: np.ndarray, targets: np.ndarray, n_classes: int | None, device: torch.device
) -> Moments:
    """Sum up some examples in one pass.

    Args:
        x: float32 [n_sentences, H, d].
        rows: int64 [n, 1 or 2], as `features` reads them.
        targets: int64 [n], classes; or float64 [n], scores.
        n_classes: None: targets are scores.
        device: where to compute.
    """
    # By target, so that the examples of a class are one segment: sums in a fixed order on any
    # device, which scattered additions are not.
    order = np.argsort(targets, kind="stable")
    total: Moments | None = None
    for begin in range(0, len(order), ROWS):
        taken = order[begin : begin + ROWS]
        values = features(x, rows[taken]).to(device, torch.float64)
        here = _block(values, targets[taken], n_classes)
        total = here if total is None else total + here
    assert total is not None
    return total


def _block(values: Tensor, targets: np.ndarray, n_classes: int | None) -> Moments:
    by_head = values.transpose(0, 1).contiguous()  # [H, n, d]
    if n_classes is None:
        y = torch.from_numpy(targets.astype(np.float64)).to(values.device)
        sums_y = y.sum()[None]
        cross = (by_head.mT @ y)[..., None]
    else:
        counts = np.bincount(targets, minlength=n_classes)
        lengths = torch.from_numpy(counts).to(values.device)
        sums_y = lengths.to(torch.float64)
        cross = torch.segment_reduce(values, "sum", lengths=lengths, axis=0).permute(1, 2, 0)
    return Moments(len(values), sums_y, values.sum(0), by_head.mT @ by_head, cross)

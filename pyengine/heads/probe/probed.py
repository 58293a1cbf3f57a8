"""What probes come to, and what the protocols share: joining parts, testing, putting together."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.heads.probe.training import Probes, Trained

Parts = Mapping[str, tuple[np.ndarray, np.ndarray]]


class Probed(NamedTuple):
    """What probes of H heads came to; one entry per head.

    Attributes:
        regulariser: float64 [H], the weight decay chosen on dev, the first one on ties; of nested
            K folds NaN where they chose different ones.
        dev: float64 [H], best dev score over the regularisers: of classes in percent, rounded to
            two decimals as SentEval does; of scores Pearson's correlation.
        test: float64 [H], that of the chosen probe on what it has not seen.
        epochs: int64 [H], epochs until the tested probe was stopped; of nested K folds all of
            theirs together.
        predictions: [n_test, H], int64 classes or float64 scores; of nested K folds [n_all, H].
        weights, bias: float32 [H, C, d] and [H, C] on the CPU, of the tested probe, of nested K
            folds the last one's; None for an MLP.
    """

    regulariser: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    epochs: np.ndarray
    predictions: np.ndarray
    weights: Tensor | None
    bias: Tensor | None


def joined(
    parts: Parts, wanted: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Put parts behind each other; return rows, targets, and where each part now is.

    Raises:
        PyengineError: for a part that is missing or empty.
    """
    for name in wanted:
        if name not in parts or not len(parts[name][0]):
            raise PyengineError(f"there are no examples to {name}")
    ends = np.cumsum([len(parts[name][0]) for name in wanted])
    spans = np.split(np.arange(ends[-1]), ends[:-1])
    rows, targets = (np.concatenate([parts[name][side] for name in wanted]) for side in (0, 1))
    return rows, targets, dict(zip(wanted, spans, strict=True))


def assembled(found: Sequence[Probed]) -> Probed:
    """Put chunks of heads beside each other."""

    def beside(name: str, axis: int = 0) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in found], axis)

    weights = [one.weights for one in found if one.weights is not None]
    bias = [one.bias for one in found if one.bias is not None]
    return Probed(
        beside("regulariser"),
        beside("dev"),
        beside("test"),
        beside("epochs"),
        beside("predictions", 1),
        torch.cat(weights) if weights else None,
        torch.cat(bias) if bias else None,
    )


def tested(
    probes: Probes, trained: Trained, chosen: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Test one probe of each head.

    Args:
        probes: the heads.
        trained: their probes.
        chosen: int64 [H], which one of each.
        test: indices of examples.

    Returns:
        float64 [H], what the goal scores them; [n_test, H], what they said; what else `Probed` has
        of the probes tested.
    """
    at = np.arange(len(chosen))
    layers = [layer[at, chosen][:, None] for layer in trained.layers]
    index, heads = (torch.from_numpy(one).to(probes.device) for one in (test, at))
    said = probes.predict(layers, index, heads)
    last = layers[0][:, 0].cpu() if len(layers) == 1 else None
    about = {
        "epochs": trained.looks[at, chosen] * probes.settings.epoch_size,
        "weights": None if last is None else last[..., :-1].contiguous(),
        "bias": None if last is None else last[..., -1].contiguous(),
    }
    return probes.goal.score(said, index)[:, 0], said[:, 0].mT.cpu().numpy(), about

"""What probes read: vectors of sentences, of pairs their differences and products; cosines."""

import numpy as np
import torch
from torch import Tensor

Vectors = np.ndarray | Tensor
ALL = slice(None)
ROWS = 1024  # pairs whose cosines are computed together


def features(x: Vectors, rows: np.ndarray, heads: slice = ALL, pairs_too: bool = False) -> Tensor:
    """Return what a probe reads of some examples.

    Args:
        x: float [n_sentences, H, d], vectors of all sentences.
        rows: int64 [n, 1], the sentence of each example; or [n, 2], its pair.
        heads: which of them.
        pairs_too: of pairs also the vectors themselves.

    Returns:
        float32 [n, H, d], a copy; of pairs u, v [n, H, 2d]: |u − v|, then u · v, as SentEval has
        them; with `pairs_too` [n, H, 4d]: u, v, u · v, |u − v|, as it has them for SNLI.
    """
    first, *second = (_taken(x, rows[:, side], heads) for side in range(rows.shape[1]))
    if not second:
        return first
    apart, product = (first - second[0]).abs_(), first * second[0]
    return torch.cat([first, *second, product, apart] if pairs_too else [apart, product], dim=-1)


def n_features(x: Vectors, rows: np.ndarray, pairs_too: bool = False) -> int:
    """Return how many numbers of a head `features` gives for an example."""
    pairs = rows.shape[1] == 2
    return x.shape[2] * (4 if pairs and pairs_too else rows.shape[1])


def cosine_scores(x: Vectors, rows: np.ndarray) -> np.ndarray:
    """Score pairs of sentences without training, as SentEval does the STS tasks of 2012 to 2016.

    Args:
        x: float [n_sentences, H, d].
        rows: int64 [n, 2].

    Returns:
        float64 [n, H], cosines of the two vectors; 0 where one of them is 0.
    """
    found = np.empty((len(rows), x.shape[1]))
    for begin in range(0, len(rows), ROWS):
        pairs = rows[begin : begin + ROWS]
        u, v = (_taken(x, pairs[:, side], ALL).double() for side in (0, 1))
        lengths = u.norm(dim=-1) * v.norm(dim=-1)
        dots = (u * v).sum(-1)
        found[begin : begin + ROWS] = torch.where(lengths > 0, dots / lengths, 0.0).cpu()
    return found


def _taken(x: Vectors, index: np.ndarray, heads: slice) -> Tensor:
    return torch.as_tensor(x[index, heads]).to(torch.float32)

"""Closed-form probes: ridge regression and linear discriminants, from one pass of sums."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyengine.heads.baselines import rounded
from pyengine.heads.correlations import pearson
from pyengine.heads.moments import ROWS, Moments, moments_of
from pyengine.heads.probe.chunks import slices
from pyengine.heads.probe.features import Vectors, features
from pyengine.heads.probe.protocols import Parts
from pyengine.heads.screen_rounds import Fit, Round, rounds_of

RIDGE, LDA = "ridge", "lda"

# Strengths to choose from on dev; equal dev scores: the first. Ridge's are in units of the mean
# diagonal of the centred Gram matrix, so that they mean the same for large and for small vectors.
STRENGTHS = {
    RIDGE: (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    LDA: (1e-4, 1e-3, 1e-2, 1e-1, 0.5),
}

SUMS_BYTES = 1 << 30  # of the sums of the heads that are solved together


class Screened(NamedTuple):
    """What closed-form probes of H heads came to; as `probe.protocols.Probed`.

    Attributes:
        regulariser: float64 [H], the strength chosen; of nested K folds NaN where they differ.
        dev: float64 [H], its score on dev.
        test: float64 [H].
        epochs: int64 [H], zeros.
        predictions: [n_test, H], int64 classes or float64 scores; of nested K folds of all.
    """

    regulariser: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    epochs: np.ndarray
    predictions: np.ndarray


class Probe(NamedTuple):
    """Affine maps to C scores: weights [H, d, C], bias [H, C]."""

    weights: Tensor
    bias: Tensor


def ridge_weights(gram: Tensor, cross: Tensor, strengths: Tensor) -> Tensor:
    """Solve (G + λI) W = K, the minimum of ‖XW − Y‖² + λ‖W‖².

    Args:
        gram: float64 [H, d, d], G = XᵀX.
        cross: float64 [H, d, C], K = XᵀY.
        strengths: float64 [H], λ.

    Returns:
        float64 [H, d, C].
    """
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky(gram + strengths[:, None, None] * eye)
    return torch.cholesky_solve(cross, factor)


def ridge(moments: Moments, strengths: Tensor) -> Probe:
    """Regress one-hot classes, or scores, on vectors; the intercept is not shrunk.

    Args:
        moments: of the examples to fit.
        strengths: float64 [H], λ in units of the mean diagonal of the centred Gram matrix.
    """
    gram, cross = moments.centred()
    weights = ridge_weights(gram, cross, strengths * _scale(gram))
    means = moments.sums / moments.n
    bias = moments.targets / moments.n - torch.einsum("hd,hdc->hc", means, weights)
    return Probe(weights, bias)


def lda(moments: Moments, strengths: Tensor) -> Probe:
    """Discriminate classes by Gaussians of one covariance, with the classes' shares as priors.

    Args:
        moments: of the examples to fit; a class without examples is never answered.
        strengths: float64 [H], γ: the covariance within classes Σ is shrunk to
            (1 − γ)Σ + γ·tr(Σ)/d·I.
    """
    means = moments.cross / moments.targets.clamp_min(1)
    within = (moments.gram - means @ moments.cross.mT) / moments.n
    kept = (1 - strengths)[:, None, None] * within
    weights = ridge_weights(kept, means, strengths * _scale(within))
    bias = (moments.targets / moments.n).log() - 0.5 * (means * weights).sum(1)
    return Probe(weights, bias)


SOLVERS: dict[str, Callable[[Moments, Tensor], Probe]] = {RIDGE: ridge, LDA: lda}


def screen(
    x: Vectors,
    parts: Parts,
    n_classes: int | None,
    protocol: str,
    method: str,
    folds: int = 5,
    seed: int = 123,
    device: str | torch.device = "cpu",
) -> Screened:
    """Fit, choose and test closed-form probes of H heads, from one pass of sums over the examples.

    With given splits the strength is chosen on dev and the probe fitted to train alone; with K
    folds chosen by stratified cross-validation on train; with nested ones each fold is tested once,
    the strength chosen on the fold that follows it.

    Args:
        x: float32 [n_sentences, H, d].
        parts: rows and targets of each part.
        n_classes: None: targets are scores, and the strength is chosen by Pearson's correlation.
        protocol: `split`, `k_fold` or `inner_k_fold`.
        method: `ridge` or `lda`; scores take `ridge` alone.
        folds: of cross-validation.
        seed: of the folds.
        device: where to compute, in float64.
    """
    at = torch.device(device)
    blocks, rounds = rounds_of(parts, protocol, folds, seed)
    width = x.shape[2] * next(iter(parts.values()))[0].shape[1]
    sums_bytes = 8 * len(blocks) * width * (width + (n_classes or 1))
    found = [
        _screened(_Search(x[:, heads], blocks, method, n_classes, at), rounds)
        for heads in slices(x.shape[1], max(1, SUMS_BYTES // sums_bytes))
    ]
    return Screened(*(np.concatenate(arrays, axis=-1) for arrays in zip(*found, strict=True)))


def _screened(search: "_Search", rounds: list[Round]) -> Screened:
    search.sum_up({name for one in rounds for fit in one.fits for name in fit.train})
    found = [search.choose(one.fits) for one in rounds]
    tested = [search.test(one.final, best) for one, (_, best) in zip(rounds, found, strict=True)]
    chosen = np.array([best for _, best in found])
    predictions = np.concatenate([predicted for predicted, _ in tested])
    return Screened(
        np.where((chosen == chosen[0]).all(0), chosen[0], np.nan),
        search.mean([dev for dev, _ in found]),
        search.mean([score for _, score in tested]),
        np.zeros(chosen.shape[1], np.int64),
        predictions[np.argsort(np.concatenate([one.places for one in rounds]))],
    )


class _Search:
    """Probes fitted to some blocks and scored on another."""

    def __init__(
        self, x: Vectors, blocks: Parts, method: str, n_classes: int | None, device: torch.device
    ) -> None:
        self._x, self._blocks, self._device = x, blocks, device
        self._solve, self._strengths = SOLVERS[method], STRENGTHS[method]
        self._n_classes = n_classes
        self._moments: dict[str, Moments] = {}

    def sum_up(self, names: Iterable[str]) -> None:
        """Take the sums of some blocks."""
        about = (self._n_classes, self._device)
        self._moments = {name: moments_of(self._x, *self._blocks[name], *about) for name in names}

    def choose(self, fits: list[Fit]) -> tuple[np.ndarray, np.ndarray]:
        """Return [H] best mean score over some fits, and the first strength that has it."""
        n_heads = self._x.shape[1]
        scores = np.array(
            [
                self.mean([self.test(fit, np.full(n_heads, value))[1] for fit in fits])
                for value in self._strengths
            ]
        )
        best = scores.argmax(0)
        return scores[best, np.arange(n_heads)], np.array(self._strengths)[best]

    def mean(self, scores: list[np.ndarray]) -> np.ndarray:
        """Return the mean over folds; of accuracies rounded again, as SentEval does."""
        mean: np.ndarray = np.mean(scores, axis=0)
        return mean if self._n_classes is None else np.round(mean, 2)

    def test(self, fit: Fit, strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions [n, H] and their scores [H], by strengths [H]."""
        first, *rest = (self._moments[name] for name in fit.train)
        probe = self._solve(sum(rest, first), torch.from_numpy(strengths).to(self._device))
        rows, targets = self._blocks[fit.test]
        predicted = self._predict(probe, rows)
        if self._n_classes is not None:
            shares = (predicted == targets[:, None]).mean(0)
            return predicted, np.array([rounded(share) for share in shares])
        return predicted, pearson(predicted, targets)

    def _predict(self, probe: Probe, rows: np.ndarray) -> np.ndarray:
        n_heads, _, n_scores = probe.weights.shape
        step = max(1, ROWS * 64 // max(64, n_scores))
        found = []
        for begin in range(0, len(rows), step):
            values = features(self._x, rows[begin : begin + step]).to(self._device, torch.float64)
            scores = torch.baddbmm(probe.bias[:, None], values.transpose(0, 1), probe.weights)
            found.append((scores[..., 0] if self._n_classes is None else scores.argmax(-1)).T.cpu())
        return torch.cat(found).numpy() if found else np.empty((0, n_heads))


def _scale(gram: Tensor) -> Tensor:
    """Return the mean diagonal of each matrix; 1 where it is 0, of vectors that are all one."""
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    return torch.where(scale > 0, scale, 1.0)

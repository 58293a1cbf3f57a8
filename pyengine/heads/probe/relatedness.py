"""Probes of scores: SentEval's regression onto soft labels."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from pyengine.heads.probe.chunks import Progress, chunk_features, heads_together, slices
from pyengine.heads.probe.features import Vectors, n_features
from pyengine.heads.probe.goals import SoftLabels
from pyengine.heads.probe.probed import Parts, Probed, assembled, joined, tested
from pyengine.heads.probe.training import Probes
from pyengine.heads.probe_settings import RELATEDNESS, ProbeSettings
from pyengine.heads.task import PARTS, SPLIT


def probe_scores(
    x: Vectors,
    parts: Parts,
    n_scores: int = 5,
    settings: ProbeSettings | None = None,
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    names: Sequence[str] | None = None,
) -> Probed:
    """Train and test probes of scores, H heads at once.

    A softmax over 1 … n_scores is trained by squared error onto two-point labels, and says the
    expected score; Pearson's correlation on dev decides when to stop.

    Args:
        x: float [n_sentences, H, d], vectors of all sentences.
        parts: `train`, `dev`, `test`: rows, int64 [n, 2], and scores, float64 [n]. In SentEval's
            order.
        n_scores: the highest score.
        settings: only the seed counts: SentEval has no choice here (`RELATEDNESS`).
        device: where to train.
        on_progress: called with (fits done, in all).
        names: what errors call the heads.

    Returns:
        With Pearson's correlations for `dev` and `test`, 0 where all predictions are equal.

    Raises:
        PyengineError: for a missing part, or vectors that are not finite.
    """
    settings = replace(RELATEDNESS, seed=(settings or RELATEDNESS).seed)
    device = torch.device(device)
    rows, targets, spans = joined(parts, PARTS[SPLIT])
    progress = Progress(x.shape[1], on_progress)
    about = SoftLabels(targets, n_scores, device), settings, progress.advance
    size = heads_together(device, len(rows), n_features(x, rows), n_scores, settings)
    return assembled(
        [
            _probed(Probes(chunk_features(x, rows, heads, device, names), *about), spans)
            for heads in slices(x.shape[1], size)
        ]
    )


def _probed(probes: Probes, spans: dict[str, np.ndarray]) -> Probed:
    decay = np.tile(probes.settings.regularisers, (probes.features.shape[1], 1))
    trained = probes.train(spans["train"], spans["dev"], decay)
    only = np.zeros(len(decay), np.int64)
    test, said, about = tested(probes, trained, only, spans["test"])
    return Probed(decay[:, 0], trained.scores[:, 0], test, predictions=said, **about)

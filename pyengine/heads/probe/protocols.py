"""Probes of classes by SentEval's protocols: given splits, K folds, nested K folds.

A probe comes to the same whichever heads are probed beside it, but for the last bits of its
products: heads are trained in chunks, whose size depends on the shapes and the kind of device only.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.heads.probe.chunks import Progress, chunk_features, heads_together, slices
from pyengine.heads.probe.features import Vectors, n_features
from pyengine.heads.probe.folds import stratified_folds
from pyengine.heads.probe.goals import Classes
from pyengine.heads.probe.probed import Parts, Probed, assembled, joined, tested
from pyengine.heads.probe.training import Probes
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.heads.task import INNER_K_FOLD, K_FOLD, PARTS, SPLIT

INNER_SEED = 1111  # of the nested folds, whatever seed the probes have
DECIMALS = 2  # of percent


def probe_classes(
    x: Vectors,
    parts: Parts,
    n_classes: int,
    protocol: str,
    settings: ProbeSettings | None = None,
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    names: Sequence[str] | None = None,
) -> Probed:
    """Train and test probes of classes, those of H heads at once.

    They begin with SentEval's weights, read its minibatches, stop where it stops, and choose and
    round as it does: each comes to what SentEval's classifier comes to alone.

    Args:
        x: float [n_sentences, H, d], vectors of all sentences.
        parts: by name those that the protocol has (`task.PARTS`): rows, int64 [n, 1] or [n, 2] of
            pairs, and classes, int64 [n]. In SentEval's order.
        n_classes: C.
        protocol: `split`, `k_fold` or `inner_k_fold`.
        settings: None: transformer_anatomy's.
        device: where to train.
        on_progress: called with (fits done, in all).
        names: what errors call the heads.

    Raises:
        PyengineError: for an unknown protocol, a missing part, classes that there are not, too few
            examples, vectors that are not finite.
    """
    check_choice("protocol", protocol, [*PARTS])
    settings, device = settings or ProbeSettings(), torch.device(device)
    rows, targets, spans = joined(parts, PARTS[protocol])
    if len(unknown := targets[(targets < 0) | (targets >= n_classes)]):
        raise PyengineError(f"classes must be 0 to {n_classes - 1}, found {unknown[0]}")
    progress = Progress(x.shape[1] * n_fits(protocol, settings), on_progress)
    about = Classes(targets, n_classes, device), settings, progress.advance
    run = PROTOCOLS[protocol]
    width = n_features(x, rows, settings.pairs_too)
    size = heads_together(device, len(rows), width, n_classes, settings)

    def probed(heads: slice) -> Probed:
        read = chunk_features(x, rows, heads, device, names, settings.pairs_too)
        return run(Probes(read, *about), targets, spans)

    return assembled([probed(heads) for heads in slices(x.shape[1], size)])


def n_fits(protocol: str, settings: ProbeSettings) -> int:
    """Return how many classifiers a head takes."""
    scan, folds = len(settings.regularisers), settings.folds
    return {SPLIT: scan, K_FOLD: scan * folds + 1, INNER_K_FOLD: folds * (scan * folds + 1)}[
        protocol
    ]


def _split(probes: Probes, targets: np.ndarray, spans: dict[str, np.ndarray]) -> Probed:
    """Choose on dev; what was trained for the choice is what is tested."""
    regularisers, decay = _regularisers(probes)
    trained = probes.train(spans["train"], spans["dev"], decay)
    dev = _percent(trained.scores)
    chosen = dev.argmax(1)
    accuracy, said, about = tested(probes, trained, chosen, spans["test"])
    return Probed(regularisers[chosen], dev.max(1), _percent(accuracy), predictions=said, **about)


def _k_fold(probes: Probes, targets: np.ndarray, spans: dict[str, np.ndarray]) -> Probed:
    """Choose by cross-validation on train, train again on all of it but a twentieth."""
    seed = probes.settings.seed
    return _refitted(probes, targets, spans["train"], spans["test"], seed)


def _inner_k_fold(probes: Probes, targets: np.ndarray, spans: dict[str, np.ndarray]) -> Probed:
    """Do that for every fold of all examples, and test on the fold left out."""
    folds = [*stratified_folds(targets, probes.settings.folds, INNER_SEED)]
    found = [_refitted(probes, targets, train, test, INNER_SEED) for train, test in folds]
    predictions = np.empty((len(targets), len(found[0].dev)), np.int64)
    for (_, test), one in zip(folds, found, strict=True):
        predictions[test] = one.predictions
    chosen = np.stack([one.regulariser for one in found])
    return found[-1]._replace(
        regulariser=np.where((chosen == chosen[0]).all(0), chosen[0], np.nan),
        dev=np.round(_mean([one.dev for one in found]), DECIMALS),
        test=np.round(_mean([one.test for one in found]), DECIMALS),
        epochs=np.sum([one.epochs for one in found], axis=0),
        predictions=predictions,
    )


def _refitted(
    probes: Probes, targets: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> Probed:
    regularisers, decay = _regularisers(probes)
    found = [
        probes.train(train[fit], train[held_out], decay).scores
        for fit, held_out in stratified_folds(targets[train], probes.settings.folds, seed)
    ]
    dev = np.round(100 * _mean(found), DECIMALS)
    chosen = dev.argmax(1)
    trained = probes.train(train, None, regularisers[chosen][:, None])
    accuracy, said, about = tested(probes, trained, np.zeros_like(chosen), test)
    return Probed(regularisers[chosen], dev.max(1), _percent(accuracy), predictions=said, **about)


def _regularisers(probes: Probes) -> tuple[np.ndarray, np.ndarray]:
    """Return them, [R], and the same for every head, [H, R]."""
    found = np.array(probes.settings.regularisers, np.float64)
    return found, np.tile(found, (probes.features.shape[1], 1))


def _percent(accuracies: np.ndarray) -> np.ndarray:
    """Round as Python rounds the float, which NumPy does not always."""
    rounded = [round(100 * accuracy, DECIMALS) for accuracy in accuracies.flatten().tolist()]
    return np.array(rounded).reshape(accuracies.shape)


def _mean(found: Sequence[np.ndarray]) -> np.ndarray:
    """Average in the order in which NumPy averages a list."""
    return np.stack(found, axis=-1).mean(-1)


PROTOCOLS: dict[str, Callable[[Probes, np.ndarray, dict[str, np.ndarray]], Probed]] = {
    SPLIT: _split,
    K_FOLD: _k_fold,
    INNER_K_FOLD: _inner_k_fold,
}

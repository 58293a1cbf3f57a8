"""From vectors of heads and a task to scores, baselines and selectivity."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from pyengine.heads.bank_tasks import BankTask
from pyengine.heads.baselines import collapsed, majority, tested
from pyengine.heads.control import control_targets
from pyengine.heads.correlations import pearson, spearman
from pyengine.heads.probe.features import cosine_scores
from pyengine.heads.probe.protocols import Parts, Probed, probe_classes
from pyengine.heads.probe.relatedness import probe_scores
from pyengine.heads.probe_choice import ProbeChoice
from pyengine.heads.results_table import (
    ACCURACY,
    PEARSON,
    SPEARMAN,
    WEIGHTED_PEARSON,
    WEIGHTED_SPEARMAN,
)
from pyengine.heads.screen import STRENGTHS, Screened, screen
from pyengine.heads.task import CLASSES, SCORES, SIMILARITY

Report = Callable[[float], None]


class Outcome(NamedTuple):
    """What some heads score by one metric, arrays [H]; `dev` and `control` NaN where none is."""

    metric: str
    regulariser: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    epochs: np.ndarray
    collapsed: np.ndarray
    control: np.ndarray


class Side(NamedTuple):
    """Heads of equal width, side by side.

    Attributes:
        x: float32 [n_sentences, H, d], on the device.
        task: with rows that index `x`.
        texts: the sentences.
        names: of the heads, for messages.
    """

    x: Tensor
    task: BankTask
    texts: Sequence[str]
    names: list[str]


def outcomes(side: Side, choice: ProbeChoice, seed: int, report: Report) -> list[Outcome]:
    """Probe some heads for a task; one outcome for each metric.

    Args:
        side: the heads and the task.
        choice: the probe.
        seed: of this trial.
        report: called with the share of the work that is done.
    """
    return _KINDS[side.task.kind](side, choice, seed, report)


def _classes(side: Side, choice: ProbeChoice, seed: int, report: Report) -> list[Outcome]:
    task, share = side.task, 0.5 if choice.control else 1.0
    parts = {name: (part.rows, part.targets) for name, part in task.parts.items()}
    found = _trained(side, parts, choice, seed, lambda done: report(share * done))
    control = np.full(len(found.test), np.nan)
    if choice.control:
        drawn = control_targets(task.parts, side.texts, task.n_classes, seed)
        parts = {name: (part.rows, drawn[name]) for name, part in task.parts.items()}
        control = _trained(side, parts, choice, seed, lambda done: report(0.5 + 0.5 * done)).test
    flags = collapsed(found.predictions, found.test, majority(task))
    how = (found.regulariser, found.dev, found.test, found.epochs)
    return [Outcome(ACCURACY, *how, flags, control)]


def _scores(side: Side, choice: ProbeChoice, seed: int, report: Report) -> list[Outcome]:
    parts = {name: (part.rows, part.targets) for name, part in side.task.parts.items()}
    found = _trained(side, parts, choice, seed, report)
    none = np.full(len(found.test), np.nan)
    flags = collapsed(found.predictions, found.test, np.nan)
    ranked = spearman(found.predictions, tested(side.task))
    return [
        Outcome(PEARSON, found.regulariser, found.dev, found.test, found.epochs, flags, none),
        Outcome(SPEARMAN, found.regulariser, none, ranked, found.epochs, flags, none),
    ]


def _similarity(side: Side, choice: ProbeChoice, seed: int, report: Report) -> list[Outcome]:
    """Correlate cosines with scores: mean over the data sets, and weighted by their sizes."""
    sets = side.task.parts.values()
    cosines = [cosine_scores(side.x, part.rows) for part in sets]
    scores = [
        np.array([of(found, part.targets) for found, part in zip(cosines, sets, strict=True)])
        for of in (pearson, spearman)
    ]
    sizes = [len(part) for part in sets]
    none, zeros = np.full(side.x.shape[1], np.nan), np.zeros(side.x.shape[1], np.int64)
    flags = np.all([(found == found[:1]).all(0) for found in cosines], axis=0)
    metrics = {
        PEARSON: scores[0].mean(0),
        SPEARMAN: scores[1].mean(0),
        WEIGHTED_PEARSON: np.average(scores[0], axis=0, weights=sizes),
        WEIGHTED_SPEARMAN: np.average(scores[1], axis=0, weights=sizes),
    }
    report(1.0)
    return [
        Outcome(metric, none, none, test, zeros, flags, none) for metric, test in metrics.items()
    ]


_KINDS = {CLASSES: _classes, SCORES: _scores, SIMILARITY: _similarity}


def _trained(
    side: Side, parts: Parts, choice: ProbeChoice, seed: int, report: Report
) -> Probed | Screened:
    """Train, choose and test the probe that was chosen."""
    task, device, settings = side.task, choice.device, choice.seeded(seed)
    n_classes = task.n_classes if task.kind == CLASSES else None
    if choice.probe in STRENGTHS:
        how = (task.protocol, choice.probe, settings.folds, seed, device)
        found = screen(side.x, parts, n_classes, *how)
        report(1.0)
        return found
    told: dict[str, Any] = {
        "on_progress": lambda done, total: report(done / max(total, 1)),
        "names": side.names,
    }
    if n_classes is None:
        return probe_scores(side.x, parts, task.n_scores, settings, device, **told)
    settings = settings.of_task(task.name)
    return probe_classes(side.x, parts, n_classes, task.protocol, settings, device, **told)

"""SentEval's classifier, one fit after the other, as plainly as torch lets it be written.

Our own words for the procedure: a seeded nn.Module, an optimiser of torch.optim, epochs with a look
at the dev set after some of them. It shares no code with pyengine.heads.probe: the tests hold that
to it, the benchmark times it. Unlike SentEval's it keeps no list of losses, scores dev in one
piece, and leaves torch's global generator as it was.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from pyengine.heads.probe_settings import ProbeSettings

Data = tuple[np.ndarray, np.ndarray]  # features [n, d], classes [n]


class Fit(NamedTuple):
    """A trained classifier: its best dev accuracy, itself, and every dev accuracy there was."""

    accuracy: float
    model: nn.Sequential
    trace: list[float]


class Result(NamedTuple):
    """What a protocol reports."""

    regulariser: float
    dev: float
    test: float


def fit(
    train: Data,
    dev: Data | None,
    n_classes: int,
    decay: float,
    settings: ProbeSettings,
    looked: Callable[[nn.Sequential, np.ndarray], None] = lambda model, x: None,
) -> Fit:
    """Train one classifier; without a dev set a random twentieth of the examples is held out."""
    with torch.random.fork_rng(devices=[]):
        return _fit(*train, dev, n_classes, decay, settings, looked)


def _fit(
    x: np.ndarray,
    y: np.ndarray,
    dev: Data | None,
    n_classes: int,
    decay: float,
    settings: ProbeSettings,
    looked: Callable[[nn.Sequential, np.ndarray], None],
) -> Fit:
    rng = np.random.RandomState(settings.seed)
    torch.manual_seed(settings.seed)
    model = network(x.shape[1], n_classes, settings)
    kind: Any = {"rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}[settings.optimizer]
    optimizer = kind(model.parameters(), weight_decay=decay)
    if dev is None:
        order = rng.permutation(len(x))
        n_dev = int(0.05 * len(x))
        dev = x[order[:n_dev]], y[order[:n_dev]]
        x, y = x[order[n_dev:]], y[order[n_dev:]]
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    loss = nn.CrossEntropyLoss()
    best, best_model, misses, n_epochs = -1.0, model, 0, 0
    trace: list[float] = []
    while n_epochs <= settings.max_epochs:
        model.train()
        for _ in range(settings.epoch_size):
            order = rng.permutation(len(x))
            for begin in range(0, len(x), settings.batch_size):
                index = torch.from_numpy(order[begin : begin + settings.batch_size])
                optimizer.zero_grad()
                loss(model(inputs[index]), targets[index]).backward()
                optimizer.step()
        n_epochs += settings.epoch_size
        trace.append(accuracy(model, *dev))
        looked(model, dev[0])
        if trace[-1] > best:
            best, best_model = trace[-1], copy.deepcopy(model)
        elif misses >= settings.tenacity:
            break
        else:
            misses += 1
    return Fit(best, best_model, trace)


def network(width: int, n_classes: int, settings: ProbeSettings) -> nn.Sequential:
    """Build a classifier."""
    hidden = settings.hidden
    if hidden == 0:
        return nn.Sequential(nn.Linear(width, n_classes))
    middle = (nn.Dropout(settings.dropout), nn.Sigmoid())
    return nn.Sequential(nn.Linear(width, hidden), *middle, nn.Linear(hidden, n_classes))


def accuracy(model: nn.Sequential, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of examples whose class gets the highest logit."""
    return 1.0 * int((predictions(model, x) == y).sum()) / len(y)


def predictions(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """Return the class of the highest logit, the first of several."""
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy().argmax(1)


def split(train: Data, dev: Data, test: Data, n_classes: int, settings: ProbeSettings) -> Result:
    """Choose the regulariser on dev, and test its classifier; it is not trained again."""
    fits = [fit(train, dev, n_classes, decay, settings) for decay in settings.regularisers]
    scores = [round(100 * accuracy(found.model, *dev), 2) for found in fits]
    best = int(np.argmax(scores))
    tested = round(100 * accuracy(fits[best].model, *test), 2)
    return Result(settings.regularisers[best], max(scores), tested)

"""The time that stopping early saves: layers are not seconds, for each on the way has to be read.

Samples are run one at a time, as by somebody who waits for each: blocks until the rule says to
stop, and the lens at every layer on the way; against the whole model with its head.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pyengine.checks import check_count
from pyengine.forward import Forward
from pyengine.hooked import own_precision
from pyengine.models import Model
from pyengine.shortcuts.early_exit import LAMBDAS
from pyengine.shortcuts.lens import Kind
from pyengine.shortcuts.linear_map import MAT
from pyengine.shortcuts.points import points_of
from pyengine.shortcuts.stopping import Stopping
from pyengine.shortcuts.validation_batches import ValidationRows, validation_batches
from pyengine.taps import StopForwardError, attach

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts


def wall_clock(
    model: Model,
    shortcuts: "Shortcuts",
    *,
    lambdas: Iterable[float] = LAMBDAS,
    kind: Kind = MAT,
    stack: str | None = None,
    n_samples: int = 100,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Time validation units with stopping and without, in turn.

    Args:
        model: the one that was fitted.
        shortcuts: the fit.
        lambdas: λ; see `pyengine.shortcuts.early_exit`.
        kind: how states are read, as `Lens` takes it.
        stack: whose states; None: the only one, or the decoder. T5's encoder always runs whole.
        n_samples: units, evenly from the shortest to the longest; of each the last sample.
        on_progress: called with (units done, in all).

    Returns:
        One row per λ: lambda; mean_layer and layers_saved (1 - mean_layer / L) of these samples;
        agreement, the share that the whole model agrees with; seconds and whole_seconds, medians of
        a unit; time_saved, the median of 1 - seconds / whole_seconds of the same unit.

    Raises:
        PyengineError: as `Stopping` does, or for `n_samples` below 1.
    """
    check_count("n_samples", n_samples)
    lambdas = tuple(lambdas)
    never = Stopping(model, shortcuts, LAMBDAS[-1], kind=kind, stack=stack)
    whole, early = StoppingPass(model, never, whole=True), StoppingPass(model, never)
    alone = list(validation_batches(model, shortcuts, never.stack, batch_tokens=1))
    units = _spread(alone, n_samples)
    seconds = np.zeros((len(units), 1 + len(lambdas)))
    tokens, layers = np.zeros(seconds.shape, np.int64), np.zeros(seconds.shape, np.int64)
    rules = [(whole, never), *((early, never.at(lam)) for lam in lambdas)]
    with own_precision(model):
        whole.run(units[0])  # what is done once only
        for row, unit in enumerate(units):
            for column, (passes, rule) in enumerate(rules):
                passes.stopping = rule
                begin = time.perf_counter()
                tokens[row, column], layers[row, column] = passes.run(unit)
                seconds[row, column] = time.perf_counter() - begin
            if on_progress is not None:
                on_progress(row + 1, len(units))
    mean_layer = layers[:, 1:].mean(0)
    return pa.table(
        {
            "lambda": pa.array(lambdas, pa.float64()),
            "mean_layer": mean_layer,
            "layers_saved": 1 - mean_layer / never.n_layers,
            "agreement": (tokens[:, 1:] == tokens[:, :1]).mean(0),
            "seconds": np.median(seconds[:, 1:], 0),
            "whole_seconds": np.full(len(lambdas), np.median(seconds[:, 0])),
            "time_saved": np.median(1 - seconds[:, 1:] / seconds[:, :1], 0),
        }
    )


class StoppingPass:
    """Passes of one sample each that end where the rule says to stop.

    Args:
        model: the model.
        stopping: the rule.
        whole: look at the last layer only: the model as it is.

    Attributes:
        stopping: the rule; set another.
    """

    def __init__(self, model: Model, stopping: Stopping, *, whole: bool = False) -> None:
        self._forward, self.stopping = Forward(model), stopping
        last, sites = stopping.n_layers, points_of(model, stopping.stack).sites
        for layer in [last] if whole else range(1, last + 1):
            attach(self._forward.body, sites[layer], self._tap(layer))

    @torch.inference_mode()
    def run(self, rows: ValidationRows) -> tuple[int, int]:
        """Run the last of a batch's samples.

        Returns:
            The token predicted, and the layer that it was read from.
        """
        self._at = int(rows.rows[-1]), int(rows.columns[-1])
        with suppress(StopForwardError):  # at the last layer at the latest
            self._forward.run(rows.batch, rows.decoder)
        return self._found

    def _tap(self, layer: int) -> Callable[[Tensor], None]:
        def stop(stream: Tensor) -> None:
            row, column = self._at
            token = self.stopping.token(stream[row, column][None], layer, column)
            if token is not None:
                self._found = token, layer
                raise StopForwardError

        return stop


def _spread(units: list[ValidationRows], n: int) -> list[ValidationRows]:
    """Take n evenly."""
    chosen = np.linspace(0, len(units) - 1, min(n, len(units))).round().astype(int)
    return [units[number] for number in chosen]

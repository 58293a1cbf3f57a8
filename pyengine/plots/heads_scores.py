"""What pictures of heads show: the scores of a task, how they were made, what they have to beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pyengine.checks import check_choice
from pyengine.heads.places import HEAD
from pyengine.heads.results_table import ACCURACY, PEARSON
from pyengine.plots.figure import shortened

if TYPE_CHECKING:
    from pyengine.heads.results import HeadResults

DEV, TEST = "dev", "test"
ENCODER = "encoder"
STACK_POOLING = ("stack", "pooling")
UNITS = {ACCURACY: "accuracy, %", PEARSON: "Pearson's r"}


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The scores of a task's heads.

    Attributes:
        task: its name.
        part: `dev`, or `test` of a task without a dev set.
        metric: `accuracy`, in percent, or `pearson`.
        values: float64 [layers, heads], NaN where there is none.
        layers: the numbers of those layers that have scores.
        collapsed: bool [layers, heads], whether the probe never learnt anything, with any seed.
        best: layer and head that rank first, chosen on dev.
        majority: the score of always naming the largest class of the test set; NaN: no classes.
        chance: that of guessing.
        rows: the rows of the results' table behind all this.
    """

    task: str
    part: str
    metric: str
    values: np.ndarray
    layers: np.ndarray
    collapsed: np.ndarray
    best: tuple[int, int]
    majority: float
    chance: float
    rows: pa.Table

    @classmethod
    def of(
        cls, results: "HeadResults", task: str, location: str = HEAD, part: str = DEV
    ) -> "TaskScores":
        """Look up a task.

        Raises:
            PyengineError: where there are no such results, or some that were not made alike.
        """
        check_choice("part", part, (DEV, TEST))
        values = results.scores(task, location, part)
        if np.isnan(values).all():
            part, values = TEST, results.scores(task, location, TEST)
        rows = results.where(task=task, location=location).table
        majority, chance = (float(rows[name][0].as_py()) for name in ("majority", "chance"))
        return cls(
            task,
            part,
            results.metric(task),
            values,
            np.flatnonzero(~np.isnan(values).all(1)),
            results.scores(task, location, "collapsed") == 1,
            results.ranked(task, 1, location)[0],
            majority,
            chance,
            rows,
        )

    @property
    def baseline(self) -> float:
        """The score of knowing nothing: that of the largest class; 0 of a correlation."""
        return 0.0 if np.isnan(self.majority) else self.majority

    @property
    def points(self) -> float:
        """Points, of which 100 are all there are, in one unit of the scores."""
        return 1.0 if self.metric == ACCURACY else 100.0

    @property
    def described(self) -> str:
        """How the scores were made."""
        first = {name: self.rows[name][0].as_py() for name in ("probe", "n_train")}
        poolings = dict(zip(*(self.rows[name].to_pylist() for name in STACK_POOLING), strict=True))
        pooling = ", ".join(dict.fromkeys(poolings.values()))
        if len(set(poolings.values())) > 1:
            pooling = ", ".join(f"{poolings[stack]} ({stack})" for stack in sorted(poolings)[::-1])
        seeds = len(set(self.rows["seed"].to_pylist()))
        trained = f", trained on {first['n_train']:,}" if first["n_train"] else ""
        mean = f"; mean over {seeds} seeds" if seeds > 1 else ""
        return f"{first['probe']} probe{trained}; pooling: {pooling}{mean}"

    @property
    def decoder(self) -> int | None:
        """The first layer of the decoder that was probed, behind an encoder's; else None."""
        return decoder_start(self.rows)

    def shown(self, value: float) -> str:
        """Write a score: a percentage to one place, a correlation to two."""
        rounded = round(value, 1 if self.metric == ACCURACY else 2) + 0.0  # never -0
        text = f"{rounded:.1f}" if self.metric == ACCURACY else f"{rounded:.2f}"
        return text.replace("-", "−")


def decoder_start(rows: pa.Table) -> int | None:
    """Return the first layer of a decoder that was probed, behind an encoder's; else None."""
    places = list(zip(*(rows[name].to_pylist() for name in ("stack", "layer")), strict=True))
    encoder = {layer for stack, layer in places if stack == ENCODER}
    decoder = {layer for stack, layer in places if stack != ENCODER}
    return min(decoder) if encoder and decoder else None


def layer_label(decoder: int | None) -> str:
    """Name an axis of layers."""
    return "layer" if decoder is None else f"layer  (decoder from {decoder} on)"


def ticks(layers: Sequence[int], most: int) -> list[int]:
    """Return the places among some layers to write numbers at: each, every second, fifth, ..."""
    step = next(s for s in (1, 2, 4, 5, 10, 20, 50, 100) if -(-len(layers) // s) <= most)
    return [*range(0, len(layers), step)]


def model_name(results: "HeadResults") -> str:
    """Return the model's name, of a folder the last part."""
    name = results.models[0]
    return shortened(name.rstrip("/").rpartition("/")[2] if name.count("/") > 1 else name, 60)

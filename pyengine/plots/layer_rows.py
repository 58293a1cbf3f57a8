"""Predictions by layer, for what their summary does not hold: quartiles, and lists."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pyengine.plots.figure import quartiles

if TYPE_CHECKING:
    from pyengine.analyses.prediction_result import Predictions

COLUMNS = {
    "layer": ("n_active", "residual_final_prob"),
    "value": (
        "n_active",
        "n_distinct",
        "n_matching_final",
        "n_matching_ffn",
        "n_matching_gold",
        "residual_norm",
        "top_contributions",
    ),
}


class LayerRows:
    """The rows of a result by layer; NaN where there is nothing, left out of every statistic.

    Attributes:
        layers: of the run, ascending.
        d_ff: memories of a layer.
        of_layer: the numbers of each layer's rows.
        summary: `Predictions.summary()`, by column, [layers].
    """

    def __init__(self, predictions: "Predictions") -> None:
        self._table = predictions.groups.read(["layer", *COLUMNS[predictions.mode]])
        of_layer = self._table["layer"].to_numpy()
        self.layers: list[int] = list(predictions.manifest["question"]["layers"])
        self.d_ff = int(predictions.manifest["model"]["d_ff"])
        self.of_layer = [np.flatnonzero(of_layer == layer) for layer in self.layers]
        summary = predictions.summary()
        self.summary = {name: summary[name].to_numpy() for name in summary.column_names}

    def column(self, name: str) -> np.ndarray:
        """Return a column of integers or numbers, float64 [rows]."""
        values: np.ndarray = self._table[name].cast(pa.float64()).to_numpy()
        return values

    def lists(self, name: str) -> np.ndarray:
        """Return a column of lists of one length, float64 [rows, length]."""
        lists = self._table[name].combine_chunks()
        values: np.ndarray = lists.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
        return values.reshape(len(lists), -1)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return [layers], the mean of [rows] over the rows of each layer."""
        parts = [values[rows] for rows in self.of_layer]
        sums = np.array([np.nansum(part) for part in parts])
        counts = np.array([np.count_nonzero(~np.isnan(part)) for part in parts])
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def quartiles(self, values: np.ndarray) -> np.ndarray:
        """Return [layers, 3] of [rows]."""
        return np.array([quartiles(values[rows]) for rows in self.of_layer])

"""Layer transfer: how well the map of one layer reads the states of another."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from torch import Tensor

from pyengine.readout import Readout
from pyengine.shortcuts.lens import Maps
from pyengine.shortcuts.scores import Final, score_layer


def transfer_table(
    read: Readout,
    final: Final,
    states: Tensor,
    mapping: str,
    maps: Maps,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Score the map of every layer below L on the states of every layer.

    Args:
        read: how the model reads the last layer.
        final: what it says of these rows.
        states: [n, L + 1, d], x_0 … x_L.
        mapping: the maps' name.
        maps: to the last layer.
        on_progress: called with (pairs done, all).

    Returns:
        One row per map and state: mapping, map_layer, state_layer, and means over the samples:
        precision@1, surprisal, kl (nats).
    """
    layers = states.shape[1]
    rows = []
    for of in range(layers - 1):
        for on in range(layers):
            found = score_layer(read, final, states[:, on], maps(of))
            rows.append(
                {
                    "mapping": mapping,
                    "map_layer": of,
                    "state_layer": on,
                    "precision@1": _mean(found["place"] == 0),
                    "surprisal": _mean(found["surprisal"]),
                    "kl": _mean(found["kl"]),
                }
            )
            if on_progress is not None:
                on_progress(len(rows), (layers - 1) * layers)
    return pa.Table.from_pylist(rows)


def _mean(values: Tensor) -> float:
    return float(np.mean(values.numpy(), dtype=np.float64))

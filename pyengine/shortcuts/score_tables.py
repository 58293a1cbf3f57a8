"""Scores as tables: a row per sample, layer and mapping, and their means with intervals."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.shortcuts.bootstrap import Bootstrap
from pyengine.shortcuts.calibration import BINS, expected_error, reliability
from pyengine.shortcuts.scores import Scores

PRECISIONS = (1, 5, 10)
MEANS = ("surprisal", "kl", "entropy", "rank", "confidence")
METRICS = (*(f"precision@{k}" for k in PRECISIONS), *MEANS)


def sample_table(
    stack: str, mapping: str, units: np.ndarray, positions: np.ndarray, scores: Scores
) -> pa.Table:
    """Return one row per layer and sample, ascending; null where a logit was NaN."""
    n_layers, n = scores["place"].shape
    tokens = scores["top_tokens"]
    flat = pa.array(tokens.ravel(), mask=tokens.ravel() < 0)
    columns: dict[str, Any] = {
        "stack": _repeated(stack, n_layers * n),
        "mapping": _repeated(mapping, n_layers * n),
        "layer": np.repeat(np.arange(n_layers, dtype=np.int32), n),
        "unit": np.tile(units, n_layers),
        "position": np.tile(positions, n_layers),
        "top_tokens": pa.ListArray.from_arrays(
            np.arange(n_layers * n + 1, dtype=np.int32) * tokens.shape[2], flat
        ),
    }
    for k in PRECISIONS:
        columns[f"hit@{k}"] = (scores["place"] < k).ravel()
    for name in ("confidence", "gap", "surprisal", "kl", "entropy"):
        columns[name] = pa.array(scores[name].ravel(), from_pandas=True)
    rank = scores["rank"].ravel()
    columns["rank"] = pa.array(rank, mask=rank < 0)
    return pa.table(columns)


def layer_table(stack: str, mapping: str, scores: Scores, bootstrap: Bootstrap) -> pa.Table:
    """Return one row per layer: each metric's mean over the samples, its 95 % interval, and ECE.

    ECE has none: it is a sum of absolute values, and resamples only add to it.
    """
    n_layers, n = scores["place"].shape
    values = [scores["place"] < k for k in PRECISIONS] + [scores[name] for name in MEANS]
    plain = np.stack(values, 2).astype(np.float64)  # [layers, n, metrics]
    rows = plain.transpose(1, 0, 2).reshape(n, -1)
    low, high = bootstrap.intervals(bootstrap.means(rows))
    columns: dict[str, Any] = {
        "stack": _repeated(stack, n_layers),
        "mapping": _repeated(mapping, n_layers),
        "layer": np.arange(n_layers, dtype=np.int32),
        "n": np.full(n_layers, n),
    }
    for at, name in enumerate(METRICS):
        for ending, found in (("", rows.mean(0)), ("_low", low), ("_high", high)):
            each = found.reshape(n_layers, len(METRICS))[:, at]
            columns[name + ending] = pa.array(each, from_pandas=True)
    errors = np.array([expected_error(*layer) for layer in _confidences(scores)])
    return pa.table(columns | {"ece": pa.array(errors, from_pandas=True)})


def calibration_table(stack: str, mapping: str, scores: Scores) -> pa.Table:
    """Return one row per layer and bin of confidence; see `calibration.reliability`."""
    parts = [reliability(*layer) for layer in _confidences(scores)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns: dict[str, Any] = {
        "stack": _repeated(stack, len(parts) * BINS),
        "mapping": _repeated(mapping, len(parts) * BINS),
        "layer": np.repeat(np.arange(len(parts), dtype=np.int32), BINS),
    }
    return pa.table(columns | {k: pa.array(v, from_pandas=True) for k, v in found.items()})


def _confidences(scores: Scores) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each layer the confidence in the best tokens, and the model's own."""
    return zip(scores["confidence"], np.exp(-scores["surprisal"]), strict=True)


def _repeated(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [text]).cast(pa.string())

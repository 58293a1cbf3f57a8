"""Scores as tables: a row per sample, layer and mapping, and their means with intervals."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.shortcuts.bootstrap import Bootstrap
from pyengine.shortcuts.calibration import BINS, calibration_error, excess, reliability
from pyengine.shortcuts.scores import Scores

PRECISIONS = (1, 5, 10)
MEANS = ("surprisal", "kl", "entropy", "rank", "confidence")
METRICS = (*(f"precision@{k}" for k in PRECISIONS), *MEANS, "ece")


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
    """Return one row per layer: each metric's mean over the samples, and its 95 % interval."""
    n_layers, n = scores["place"].shape
    values = [scores["place"] < k for k in PRECISIONS] + [scores[name] for name in MEANS]
    plain = np.stack(values, 2).astype(np.float64)  # [layers, n, metrics]
    spread = [excess(*layer) for layer in _confidences(scores)]
    both = np.concatenate([plain, np.stack(spread)], 2).transpose(1, 0, 2).reshape(n, -1)
    means = _metrics(both.mean(0, keepdims=True), n_layers)
    low, high = bootstrap.intervals(_metrics(bootstrap.means(both), n_layers))
    columns: dict[str, Any] = {
        "stack": _repeated(stack, n_layers),
        "mapping": _repeated(mapping, n_layers),
        "layer": np.arange(n_layers, dtype=np.int32),
        "n": np.full(n_layers, n),
    }
    for at, name in enumerate(METRICS):
        for ending, found in (("", means[0]), ("_low", low), ("_high", high)):
            each = found.reshape(n_layers, len(METRICS))[:, at]
            columns[name + ending] = pa.array(each, from_pandas=True)
    return pa.table(columns)


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


def _metrics(means: np.ndarray, n_layers: int) -> np.ndarray:
    """Turn means of rows, [r, layers * (metrics + bins)], into [r, layers * METRICS]."""
    split = means.reshape(len(means), n_layers, means.shape[1] // n_layers)
    plain, spread = split[..., : len(METRICS) - 1], split[..., len(METRICS) - 1 :]
    found = np.concatenate([plain, calibration_error(spread)[..., None]], 2)
    return found.reshape(len(means), n_layers * len(METRICS))


def _repeated(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [text]).cast(pa.string())

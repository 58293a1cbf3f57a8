"""Predictions summed up per layer: the quantities of Geva et al. 2021, Figures 7 to 11."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyengine.analyses.prediction_tables import KINDS, Groups

# Columns that are summed up, by mode.
_COLUMNS = {
    "both": ["n_active", "n_negative", "residual_final_rank", "residual_final_prob", "gold_token"],
    "layer": [
        "n_matching_layer",
        "n_matching_ffn",
        "layer_gold_rank",
        "residual_gold_rank",
        "ffn_gold_rank",
        "kind",
    ],
    "value": [
        "n_matching_final",
        "n_matching_ffn",
        "n_matching_gold",
        "n_distinct",
        "ffn_final_rank",
        "ffn_final_prob",
        "residual_token",
        "ffn_token",
    ],
}


def summarise(groups: Groups, manifest: Mapping[str, Any]) -> pa.Table:
    """Return a row per layer. Examples with a null are left out of what it concerns; NaN if none.

    Both modes: layer, n_examples; mean_active and median_active, memories with a positive
    coefficient, and active_share of d_ff (Figure 7); mean_negative; residual_predicts_final, share
    of examples (Figure 9); mean_residual_final_prob (Figure 10); residual_gold_accuracy and
    ffn_gold_accuracy, shares of the examples that have a gold token.

    `layer` mode: no_match_layer and no_match_ffn, shares of examples where no active memory has the
    best token of the layer's, of the FFN's output (Figure 8); agreement, residual, ffn,
    composition, shares of their kind (Figure 11); layer_gold_accuracy.

    `value` mode: no_match_final, no_match_ffn, no_match_gold; mean_distinct; ffn_predicts_final,
    mean_ffn_final_prob; with `all_values` top_contribution_share, that of the n largest
    contributions in the sum over all.
    """
    question, mode = manifest["question"], manifest["question"]["mode"]
    layers = question["layers"]
    table = groups.read(_COLUMNS["both"] + _COLUMNS[mode])
    # Rows are sorted by example, then layer; -1 and NaN stand for null.
    seen = {name: _array(table[name]).reshape(-1, len(layers)) for name in table.column_names}
    active = seen["n_active"]
    found: dict[str, Any] = {
        "n_examples": np.full(len(layers), len(active)),
        "mean_active": _mean(active),
        "median_active": _median(active),
        "active_share": _mean(active) / manifest["model"]["d_ff"],
        "mean_negative": _mean(seen["n_negative"]),
        "residual_predicts_final": _share(seen["residual_final_rank"], 0),
        "mean_residual_final_prob": _mean(seen["residual_final_prob"]),
    }
    found |= _of_layers(seen) if mode == "layer" else _of_values(seen)
    if question["all_values"]:
        found["top_contribution_share"] = _top_share(groups, len(layers))
    columns = {name: pa.array(values) for name, values in found.items()}
    return pa.table({"layer": pa.array(layers, pa.int32()), **columns})


def _of_layers(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {f"no_match_{x}": _share(seen[f"n_matching_{x}"], 0) for x in ("layer", "ffn")}
    found |= {kind: _share(seen["kind"], code) for code, kind in enumerate(KINDS)}
    parts = ("layer", "residual", "ffn")
    return found | {f"{part}_gold_accuracy": _share(seen[f"{part}_gold_rank"], 0) for part in parts}


def _of_values(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {f"no_match_{x}": _share(seen[f"n_matching_{x}"], 0) for x in ("final", "ffn", "gold")}
    found["mean_distinct"] = _mean(seen["n_distinct"])
    found["ffn_predicts_final"] = _share(seen["ffn_final_rank"], 0)
    found["mean_ffn_final_prob"] = _mean(seen["ffn_final_prob"])
    gold = seen["gold_token"]
    for part in ("residual", "ffn"):
        token = seen[f"{part}_token"]
        correct = np.where((gold < 0) | (token < 0), -1, token == gold)
        found[f"{part}_gold_accuracy"] = _share(correct, 1)
    return found


def _top_share(groups: Groups, n_layers: int) -> np.ndarray:
    """Return per layer the mean share of the top contributions, a row group in memory at a time."""
    shares = [np.zeros(0)]
    for group in groups:
        top, whole = (
            _list_sums(group[f"{name}_contributions"].combine_chunks()) for name in ("top", "all")
        )
        with np.errstate(invalid="ignore"):
            shares.append(top / whole)
    return _mean(np.concatenate(shares).reshape(-1, n_layers))


def _list_sums(lists: Any) -> np.ndarray:
    """Sum each list; all are of one length."""
    flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return flat.reshape(len(lists), -1).sum(1) if len(lists) else np.zeros(0)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.index_in(column.cast(pa.string()), value_set=pa.array(KINDS))
    filled = column.fill_null(float("nan") if pa.types.is_floating(kind) else -1)
    return filled.to_numpy()


def _known(values: np.ndarray) -> np.ndarray:
    return ~np.isnan(values) if values.dtype.kind == "f" else values >= 0


def _share(values: np.ndarray, wanted: int) -> np.ndarray:
    """Return the share of rows equal to `wanted`, of those known."""
    known = _known(values)
    with np.errstate(invalid="ignore"):
        return ((values == wanted) & known).sum(0) / known.sum(0)


def _mean(values: np.ndarray) -> np.ndarray:
    known = _known(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(0, dtype=np.float64) / known.sum(0)


def _median(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.full(values.shape[1], np.nan)
    return np.median(values, axis=0)

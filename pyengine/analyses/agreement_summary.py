"""Summaries of an agreement, each with its random baselines: by layer, and by confidence.

Both are made from the table of values alone, so that anyone can make them again.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BINS = 10
MOST_CONFIDENT = 100

LAYERS = pa.schema(
    [
        ("layer", pa.int32()),
        ("target", pa.string()),
        ("n_values", pa.int32()),
        ("n_compared", pa.int32()),
        ("agreement", pa.float64()),
        ("agreement_shuffled", pa.float64()),
        ("agreement_chance", pa.float64()),
        ("any_match", pa.float64()),
        ("precision", pa.float64()),
        ("mean_rank", pa.float64()),
        ("median_rank", pa.float64()),
        ("mean_rank_shuffled", pa.float64()),
        ("mean_rank_chance", pa.float64()),
        ("mean_prob", pa.float64()),
    ]
)

PROBABILITY = pa.schema(
    [
        ("bin", pa.int32()),
        ("from_prob", pa.float64()),
        ("to_prob", pa.float64()),
        ("n_compared", pa.int32()),
        ("agreement", pa.float64()),
        ("agreement_shuffled", pa.float64()),
        ("agreement_chance", pa.float64()),
        ("n_values", pa.int32()),
        ("any_match", pa.float64()),
    ]
)


def by_layer(table: pa.Table, kinds: dict[int, str], vocab_size: int) -> pa.Table:
    """Summarise each layer (Geva et al. 2021, Figures 4 and 5); null where nothing is to average.

    Columns: `agreement`, the share of the `n_compared` values, those whose key's best example has
    a target, whose top token is that target; `any_match`, the share of the values with a target
    at all whose top token is one of them; `precision`, the mean share of a value's targets that
    equal its top token; `mean_rank` and `median_rank` of the best example's target, 0 is the top;
    `mean_prob` of the values' top tokens. `_shuffled`: with the target of another key instead.
    `_chance`: with a token drawn evenly from the vocabulary.

    Args:
        table: of an `Agreement`.
        kinds: what each layer was compared with, `next` or `input`.
        vocab_size: tokens in the vocabulary.
    """
    numbers = _numbers(table)
    rows = []
    for layer, kind in kinds.items():
        here = {name: column[numbers["layer"] == layer] for name, column in numbers.items()}
        rows.append(
            {
                "layer": layer,
                "target": kind,
                "n_values": len(here["layer"]),
                **_rates(here, vocab_size),
                "precision": _mean(here["precision"]),
                "mean_rank": _mean(here["rank"]),
                "median_rank": _median(here["rank"]),
                "mean_rank_shuffled": _mean(here["shuffled_rank"]),
                "mean_rank_chance": (vocab_size - 1) / 2,
                "mean_prob": _mean(here["prob"]),
            }
        )
    return pa.Table.from_pylist(rows, LAYERS)


def by_probability(table: pa.Table, vocab_size: int) -> pa.Table:
    """Summarise the values of all layers by the probability of their top token (Figure 6).

    Ten bins of equal counts by ascending probability (the first ones have one more where the
    count does not divide; fewer bins where there are fewer values), then, as bin -1, the 100 most
    confident values. Equal probabilities: by layer and dim. Columns as in `by_layer`; `from_prob`
    and `to_prob` are the least and the greatest probability in the bin.

    Args:
        table: of an `Agreement`.
        vocab_size: tokens in the vocabulary.
    """
    numbers = _numbers(table)
    known = np.flatnonzero(~np.isnan(numbers["prob"]))
    ascending = known[np.argsort(numbers["prob"][known], kind="stable")]
    descending = known[np.argsort(-numbers["prob"][known], kind="stable")]
    bins = dict(enumerate(np.array_split(ascending, BINS))) | {-1: descending[:MOST_CONFIDENT]}
    rows = []
    for index, members in bins.items():
        if not len(members):
            continue
        here = {name: column[members] for name, column in numbers.items()}
        rows.append(
            {
                "bin": index,
                "from_prob": float(here["prob"].min()),
                "to_prob": float(here["prob"].max()),
                "n_values": len(members),
                **_rates(here, vocab_size),
            }
        )
    return pa.Table.from_pylist(rows, PROBABILITY)


def _numbers(table: pa.Table) -> dict[str, np.ndarray]:
    """Return what the summaries need as float64 [n], NaN for null."""

    def numbers(column: Any) -> np.ndarray:
        return pc.cast(column, pa.float64()).to_numpy()

    matches, n_targets = numbers(table["matches"]), numbers(table["n_targets"])
    n_targets = np.where(n_targets == 0, np.nan, n_targets)
    agrees_shuffled = pc.cast(pc.equal(table["shuffled_target"], table["top_token"]), pa.int32())
    return {
        "layer": numbers(table["layer"]),
        "prob": numbers(table["top_prob"]),
        "agrees": numbers(pc.cast(table["agrees"], pa.int32())),
        "agrees_shuffled": numbers(agrees_shuffled),
        "any_match": np.where(np.isnan(n_targets), np.nan, matches > 0),
        "precision": matches / n_targets,
        "rank": numbers(pc.list_element(table["target_ranks"], 0)),
        "shuffled_rank": numbers(table["shuffled_rank"]),
    }


def _rates(here: dict[str, np.ndarray], vocab_size: int) -> dict[str, Any]:
    return {
        "n_compared": int((~np.isnan(here["agrees"])).sum()),
        "agreement": _mean(here["agrees"]),
        "agreement_shuffled": _mean(here["agrees_shuffled"]),
        "agreement_chance": 1 / vocab_size,
        "any_match": _mean(here["any_match"]),
    }


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _median(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None

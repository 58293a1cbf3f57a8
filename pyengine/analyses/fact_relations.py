"""What becomes of the answers, by relation, in both ways that are published; and by layer."""

from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.analyses.fact_tables import KINDS, STATES

MODES = {"suppress": "suppressed", "enhance": "enhanced"}
ALL = "all"

CHANGES = tuple(
    f"{kind}_{mode}_{aggregate}"
    for kind in KINDS
    for mode in MODES
    for aggregate in ("ratio_of_means", "mean_of_ratios")
)
CORRECT = tuple(f"{kind}_correct_{state}" for kind in KINDS for state in STATES)

RELATIONS = pa.schema(
    [
        ("relation", pa.string()),
        ("n_facts", pa.int64()),
        ("n_prompts", pa.int64()),
        ("n_neurons", pa.float64()),
        *((name, pa.float64()) for name in (*CHANGES, *CORRECT)),
    ]
)


def by_relation(facts: pa.Table, effects: pa.Table) -> pa.Table:
    """Aggregate the effects of the facts of each relation, and of all: `all`, the last row.

    Columns: relation, n_facts, n_prompts (own ones), n_neurons (mean per fact); for KIND own or
    unrelated and MODE suppress or enhance, p being the probability of the correct answer:

    - KIND_MODE_ratio_of_means: mean(p after - p before) / mean(p before), over all prompts
      (Dai et al. 2022, Figures 3 and 4).
    - KIND_MODE_mean_of_ratios: mean((p after - p before) / p before) over the prompts of a fact,
      then over the facts that have neurons (the knowledge-neurons package). Prompts with
      p before = 0 are left out.
    - KIND_correct_STATE: share of prompts whose best completion is the answer, before, suppressed
      and enhanced.

    Null where there is nothing to average.
    """
    number = np.asarray(facts["fact"])
    names = np.asarray(facts["relation"].to_pylist(), object)
    n_prompts, n_neurons = (np.asarray(facts[name]) for name in ("n_prompts", "n_neurons"))
    # Facts are in ascending order: the place of each effect's fact.
    owner = np.searchsorted(number, np.asarray(effects["fact"]))
    columns = _effect_columns(effects)
    groups = [(name, names == name) for name in dict.fromkeys(names)]
    rows = []
    for name, inside in (*groups, (ALL, np.full(len(names), True))):
        row: dict[str, Any] = {"relation": name, "n_facts": int(inside.sum())}
        row |= {"n_prompts": int(n_prompts[inside].sum()), "n_neurons": _mean(n_neurons[inside])}
        for kind in KINDS:
            chosen = inside[owner] & (columns["kind"] == kind)
            picked = {column: values[chosen] for column, values in columns.items()}
            row |= _aggregated(kind, picked, owner[chosen], n_neurons > 0)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=RELATIONS)


def by_layer(neurons: pa.Table, n_layers: int) -> pa.Table:
    """Count the facts' neurons: layer, n_neurons, share of all of them (null without any)."""
    counts = np.bincount(np.asarray(neurons["layer"]), minlength=n_layers)
    total = int(counts.sum())
    shares = [count / total if total else None for count in counts.tolist()]
    return pa.table(
        {
            "layer": pa.array(range(n_layers), pa.int32()),
            "n_neurons": pa.array(counts, pa.int64()),
            "share": pa.array(shares, pa.float64()),
        }
    )


def _effect_columns(effects: pa.Table) -> dict[str, np.ndarray]:
    names = [f"{what}_{state}" for what in ("probability", "correct") for state in STATES]
    found = {name: np.asarray(effects[name]).astype(float) for name in names}
    return found | {"kind": np.asarray(effects["kind"].to_pylist(), object)}


def _aggregated(
    kind: str, columns: dict[str, np.ndarray], owner: np.ndarray, has_neurons: np.ndarray
) -> dict[str, float | None]:
    before = columns["probability_before"]
    found: dict[str, float | None] = {}
    for mode, state in MODES.items():
        change = columns[f"probability_{state}"] - before
        total = before.sum()
        found[f"{kind}_{mode}_ratio_of_means"] = float(change.sum() / total) if total > 0 else None
        counted = has_neurons[owner] & (before > 0)
        ratio = _mean_by_fact(change[counted] / before[counted], owner[counted])
        found[f"{kind}_{mode}_mean_of_ratios"] = ratio
    for state in STATES:
        found[f"{kind}_correct_{state}"] = _mean(columns[f"correct_{state}"])
    return found


def _mean_by_fact(values: np.ndarray, owner: np.ndarray) -> float | None:
    """Average over the values of each owner, then over the owners."""
    counts = np.bincount(owner)
    known = counts > 0
    return _mean(np.bincount(owner, values)[known] / counts[known])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None

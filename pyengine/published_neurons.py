"""Published knowledge neurons, and how the neurons of two sources agree."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.analyses.fact_neuron_result import FactNeurons
from pyengine.analyses.fact_relations import ALL, RELATIONS
from pyengine.analyses.fact_tables import KINDS
from pyengine.errors import PyengineError
from pyengine.lines import check_files, read_bytes
from pyengine.neurons import Neuron

FactSets = Mapping[str, Sequence[Neuron]]

AGREEMENT = pa.schema(
    [
        ("relation", pa.string()),
        ("layer", pa.int32()),
        ("n_facts", pa.int64()),
        ("n_a", pa.int64()),
        ("n_b", pa.int64()),
        ("n_shared", pa.int64()),
        ("jaccard", pa.float64()),
        ("mean_jaccard", pa.float64()),
    ]
)

# Our names of the published ones.
_MODES = {"suppress": "suppression", "enhance": "enhancement"}
_KINDS = {"own": "related", "unrelated": "unrelated"}
_STATES = {"suppress": "suppressed", "enhance": "enhanced"}


def read_published_neurons(
    paths: str | Path | Iterable[str | Path],
) -> dict[str, list[Neuron]]:
    """Read files of `{uid: [[layer, dim], ...]}`, one or several shards.

    Raises:
        PyengineError: if a file is of another kind, or two hold different neurons of one fact.
    """
    found: dict[str, list[Neuron]] = {}
    for path, uid, pairs in _entries(paths):
        try:
            neurons = [Neuron(int(layer), int(dim)) for layer, dim in pairs]
        except (TypeError, ValueError) as error:
            raise PyengineError(f"{path}: {uid} is not a list of [layer, dim]") from error
        if found.setdefault(uid, neurons) != neurons:
            raise PyengineError(f"{path}: fact {uid} has other neurons in a file before")
    return found


def compare_neurons(
    a: FactNeurons | FactSets,
    b: FactNeurons | FactSets,
    relations: Mapping[str, str] | None = None,
) -> pa.Table:
    """Compare the neurons of the facts that two sources share.

    Args:
        a, b: runs, or neurons by uid.
        relations: the relation of each fact by uid; None: those of `a` or else `b`, if it is a run.
            Facts whose relation is not known count in `all` only.

    Returns:
        Per relation, and last over `all` facts: a row with layer null, over all layers, and one per
        layer that has a neuron. Columns: relation, layer, n_facts, n_a, n_b (neurons), n_shared;
        jaccard, n_shared / (n_a + n_b - n_shared); mean_jaccard, the mean of the facts' own, over
        those with a neuron there. Null where neither has one.

    Raises:
        PyengineError: if the two share no fact.
    """
    for side in (a, b):
        if relations is None and isinstance(side, FactNeurons):
            relations = side.relation_of()
    known = relations or {}
    mine, theirs = _sets(a), _sets(b)
    shared = [uid for uid in mine if uid in theirs]
    if not shared:
        raise PyengineError("the two share no fact: no uid is in both")
    groups: dict[str, list[str]] = {}
    for uid in shared:
        if uid in known:
            groups.setdefault(known[uid], []).append(uid)
    rows = []
    for name, uids in (*groups.items(), (ALL, shared)):
        pairs = [(mine[uid], theirs[uid]) for uid in uids]
        layers = sorted({neuron.layer for pair in pairs for side in pair for neuron in side})
        rows += [_compared(name, layer, pairs) for layer in (None, *layers)]
    return pa.Table.from_pylist(rows, schema=AGREEMENT)


def read_published_results(paths: str | Path | Iterable[str | Path]) -> pa.Table:
    """Read result files of the package's `pararel_evaluate.py`, one or several shards.

    Returns:
        The columns of `FactNeurons.relations`. The files hold no probabilities, so that ratios of
        means are null, and the means of ratios are those of the package's own plot: over the facts
        for which both it and the unrelated fact have neurons. The script that made the published
        files suppressed once more where it was to enhance for the unrelated fact: where both lists
        of every fact are equal, `unrelated_enhance_mean_of_ratios` and
        `unrelated_correct_enhanced` are null.

    Raises:
        PyengineError: if a file is of another kind.
    """
    facts = []
    for path, uid, record in _entries(paths):
        try:
            facts.append(_result(record))
        except (AttributeError, KeyError, TypeError) as error:
            raise PyengineError(
                f"{path}: {uid} is not a result of pararel_evaluate.py: {error!r}"
            ) from error
    if all(fact["unrelated_suppress"] == fact["unrelated_enhance"] for fact in facts):
        facts = [
            {**fact, "unrelated_enhance": [], "unrelated_correct_enhanced": []} for fact in facts
        ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for fact in facts:
        groups.setdefault(fact["relation"], []).append(fact)
    rows = [_summary(name, group) for name, group in (*groups.items(), (ALL, facts))]
    return pa.Table.from_pylist(rows, schema=RELATIONS)


def _entries(paths: str | Path | Iterable[str | Path]) -> list[tuple[Path, str, Any]]:
    """Return what every fact's name stands for, over all files."""
    found = []
    for path in check_files(paths):
        try:
            data = json.loads(read_bytes(path))
        except ValueError as error:
            raise PyengineError(f"{path}: not JSON: {error}") from error
        if not isinstance(data, dict):
            raise PyengineError(f"{path}: expected an object by fact, got {type(data).__name__}")
        found += [(path, uid, value) for uid, value in data.items()]
    if not found:
        raise PyengineError("the files hold no fact")
    return found


def _sets(source: FactNeurons | FactSets) -> dict[str, set[Neuron]]:
    lists = source.by_uid() if isinstance(source, FactNeurons) else source
    return {uid: {Neuron(*neuron) for neuron in neurons} for uid, neurons in lists.items()}


def _compared(
    relation: str, layer: int | None, pairs: Sequence[tuple[set[Neuron], set[Neuron]]]
) -> dict[str, Any]:
    def size(neurons: set[Neuron]) -> int:
        return sum(layer is None or neuron.layer == layer for neuron in neurons)

    counts = np.array([(size(a), size(b), size(a & b)) for a, b in pairs])
    n_a, n_b, n_shared = counts.T
    union = n_a + n_b - n_shared
    has = union > 0
    return {
        "relation": relation,
        "layer": layer,
        "n_facts": len(pairs),
        "n_a": int(n_a.sum()),
        "n_b": int(n_b.sum()),
        "n_shared": int(n_shared.sum()),
        "jaccard": float(n_shared.sum() / union.sum()) if has.any() else None,
        "mean_jaccard": float((n_shared[has] / union[has]).mean()) if has.any() else None,
    }


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a fact's published result what the table is made of."""
    found: dict[str, Any] = {
        "relation": record["relation_name"],
        "n_prompts": record["suppression"]["related"]["n_prompts"],
        "n_neurons": record["n_refined_neurons"],
        "counts": record["n_refined_neurons"] > 0 and record["n_unrelated_neurons"] > 0,
    }
    for kind in KINDS:
        for mode, published in _MODES.items():
            answers = record[published][_KINDS[kind]]
            found[f"{kind}_{mode}"] = [float(change) for change in answers["pct_change"]]
            found[f"{kind}_correct_{_STATES[mode]}"] = list(answers["correct_after"])
            found[f"{kind}_correct_before"] = list(answers["correct_before"])
    return found


def _summary(relation: str, facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "relation": relation,
        "n_facts": len(facts),
        "n_prompts": sum(fact["n_prompts"] for fact in facts),
        "n_neurons": _mean([fact["n_neurons"] for fact in facts]),
    }
    for kind in KINDS:
        for mode in _MODES:
            lists = [fact[f"{kind}_{mode}"] for fact in facts if fact["counts"]]
            row[f"{kind}_{mode}_mean_of_ratios"] = _mean([_mean(values) for values in lists])
        for state in ("before", *_STATES.values()):
            answers = [fact[f"{kind}_correct_{state}"] for fact in facts]
            row[f"{kind}_correct_{state}"] = _mean([float(x) for found in answers for x in found])
    return row


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

"""The summaries, made again from the table with plain Python."""

import statistics
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
import torch
from agreement_cases import random_targets
from tiny_models import tiny_model

import pyengine
from pyengine import Agreement, key_value_agreement
from pyengine.analyses.agreement_summary import by_layer, by_probability
from pyengine.analyses.agreement_table import SCHEMA

VOCAB = 97


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def found(request: pytest.FixtureRequest) -> Agreement:
    """An agreement of which a quarter of the targets are right."""
    model = pyengine.load(tiny_model(request.param))
    targets = random_targets(model, k=5)
    top = key_value_agreement(model, targets).table["top_token"].to_numpy()
    best = torch.tensor(top).long().view(model.n_layers, model.d_ff, 1)
    for seed, tokens in enumerate((targets.next, targets.input)):
        right = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 1 / 4
        tokens.copy_(torch.where(right & (tokens >= 0), best, tokens))
    return key_value_agreement(model, targets)


def mean(values: list[Any]) -> float:
    return sum(values) / len(values)


def rates(rows: list[dict[str, Any]]) -> dict[str, Any]:
    compared = [row for row in rows if row["targets"][0] is not None]
    some = [row for row in rows if any(target is not None for target in row["targets"])]
    return {
        "n_compared": len(compared),
        "agreement": mean([row["targets"][0] == row["top_tokens"][0] for row in compared]),
        "agreement_shuffled": mean(
            [row["shuffled_target"] == row["top_tokens"][0] for row in compared]
        ),
        "agreement_chance": 1 / VOCAB,
        "any_match": mean([row["top_tokens"][0] in row["targets"] for row in some]),
    }


def same(row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert row == {name: pytest.approx(value, rel=1e-12) for name, value in expected.items()}


def test_by_layer_is_what_plain_python_counts(found: Agreement) -> None:
    table = found.table.to_pylist()
    kinds = found.manifest["question"]["target"]
    assert found.layers.num_rows == len(kinds)
    for row in found.layers.to_pylist():
        rows = [value for value in table if value["layer"] == row["layer"]]
        shares = []
        for value in rows:
            known = [target for target in value["targets"] if target is not None]
            assert (value["n_targets"], value["matches"]) == (
                len(known),
                known.count(value["top_tokens"][0]),
            )
            if known:
                shares.append(known.count(value["top_tokens"][0]) / len(known))
        compared = [value for value in rows if value["targets"][0] is not None]
        first = [value["target_ranks"][0] for value in compared]
        other = [value["shuffled_rank"] for value in compared]
        expected = {"layer": row["layer"], "target": kinds[row["layer"]], "n_values": 37}
        expected |= rates(rows) | {"precision": mean(shares), "mean_rank": mean(first)}
        expected |= {"median_rank": statistics.median(first), "mean_rank_shuffled": mean(other)}
        expected |= {"mean_rank_chance": 48.0}
        expected |= {"mean_prob": mean([value["top_prob"] for value in rows])}
        assert 0.05 < expected["agreement"] < 0.6  # or the comparison would say little
        assert expected["target"] == row.pop("target") and expected.pop("target")
        same(row, expected)


def test_by_probability_cuts_into_equal_counts(found: Agreement) -> None:
    table = found.table.to_pylist()
    ascending = sorted(table, key=lambda row: row["top_prob"])
    size, more = divmod(len(table), 10)
    ends = [i * size + min(i, more) for i in range(11)]
    bins = [ascending[a:b] for a, b in pairwise(ends)]
    confident = sorted(table, key=lambda row: -row["top_prob"])[:100]
    made = found.probability.to_pylist()
    assert [row["bin"] for row in made] == [*range(10), -1]
    for row, rows in zip(made, [*bins, confident], strict=True):
        probs = [value["top_prob"] for value in rows]
        expected = {"bin": row["bin"], "n_values": len(rows), **rates(rows)}
        same(row, expected | {"from_prob": min(probs), "to_prob": max(probs)})


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    empty = {name: None for name in SCHEMA.names}
    return pa.Table.from_pylist([empty | row for row in rows], SCHEMA)


def value(dim: int, prob: float, target: int | None, **more: Any) -> dict[str, Any]:
    row = {"layer": 0, "dim": dim, "top_token": 1, "top_prob": prob, "targets": [target]}
    row |= {"target_ranks": [target], "matches": int(target == 1)}
    row |= {"n_targets": int(target is not None)}
    return row | {"agrees": None if target is None else target == 1, **more}


def test_nothing_to_average_is_null_and_few_values_make_few_bins() -> None:
    table = table_of([value(0, 0.5, None), value(1, 0.25, None)])
    row = by_layer(table, {0: "next"}, 10).to_pylist()[0]
    assert (row["n_values"], row["n_compared"], row["mean_prob"]) == (2, 0, 0.375)
    for name in ("agreement", "agreement_shuffled", "any_match", "precision", "mean_rank"):
        assert row[name] is None
    bins = by_probability(table, 10).to_pylist()
    assert [(row["bin"], row["n_values"], row["from_prob"]) for row in bins] == [
        (0, 1, 0.25),
        (1, 1, 0.5),
        (-1, 2, 0.25),
    ]


def test_equal_probabilities_go_by_layer_and_dim_and_nan_goes_nowhere() -> None:
    rows = [value(dim, 0.5, 1 if dim < 100 else 2) for dim in range(150)]
    rows += [value(150, 0.0, None, top_token=None, top_prob=None)]
    bins = by_probability(table_of(rows), 10).to_pylist()
    assert [row["n_values"] for row in bins] == [15] * 10 + [100]
    assert [row["agreement"] for row in bins] == [1.0] * 6 + [10 / 15] + [0.0] * 3 + [1.0]


def test_a_value_with_nan_logits_is_null_and_not_compared() -> None:
    hf = tiny_model("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_proj.weight[5, 0] = torch.inf
        hf.transformer.wte.weight[3, 0] = 0.0
    model = pyengine.load(hf)
    targets = random_targets(model)
    targets.next[1, 5] = 7
    found = key_value_agreement(model, targets)
    row = found.table.slice(37 + 5, 1).to_pylist()[0]
    nulls = ("top_token", "top_text", "top_prob", "entropy", "agrees", "shuffled_rank")
    assert all(row[name] is None for name in nulls)
    assert row["top_tokens"] == [None] * 10 and row["target_ranks"] == [None] * 4
    assert (row["targets"], row["matches"]) == ([7] * 4, 0)
    assert found.layers["n_compared"][1].as_py() == int((targets.next[1, :, 0] >= 0).sum()) - 1
    assert found.table["top_token"].null_count == 1

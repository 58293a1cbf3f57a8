"""Value predictions against brute force in float64, and where the answers are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from prediction_brute_force import disagreements, predictions
from prediction_helpers import FOLDERS, batching, predict, random_units, trained_units
from tiny_models import FAMILIES, VOCAB, tiny_model

import pyengine
from pyengine import Corpus
from pyengine.analyses.predictions import ffn_predictions
from pyengine.embedded import EXCERPT


def expected(hf: Any, units: list[list[int]], **how: Any) -> list[dict[str, Any]]:
    return predictions(hf, units, "value", final_norm=False, head="embedding", **how)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_brute_force_for_every_single_memory(family: str, tied: bool) -> None:
    hf, units = tiny_model(family, tie_word_embeddings=tied).double(), random_units()
    how: dict[str, Any] = {"n": 7, "all_values": True, "position": "all"}
    found = predict(hf, units, "value", **how, **batching(family))
    assert disagreements(found.table, expected(hf, units, n=7, rule="all"), 1e-6) == []


@pytest.mark.parametrize("family", sorted(FOLDERS))
def test_equals_brute_force_on_trained_models(family: str) -> None:
    model = pyengine.load(str(FOLDERS[family]), dtype="float64")
    corpus = Corpus.from_wikitext(EXCERPT, max_units=3)
    how = batching(family) | {"batch_tokens": 1 if family == "gpt_neo" else 120}
    found = ffn_predictions(model, corpus, "value", seed=4, all_values=True, **how)
    units, around = trained_units(model, corpus)
    rows = expected(model.hf, units, seed=4, **around)
    assert disagreements(found.table, rows, 1e-6) == []
    # In ReLU models most memories are zero vectors.
    zero = np.array([row["all_coefficients"] for row in rows]) == 0
    assert (zero.mean() > 0.3) == (family == "t5")


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_reads_out_as_float64_would(family: str) -> None:
    hf, units = tiny_model(family), random_units()
    how: dict[str, Any] = {"all_values": True, "activation": "model", "batch_tokens": 1}
    found = predict(hf, units, "value", position="all", **how)
    wrong = disagreements(found.table, expected(hf, units, rule="all"), 3e-5)
    # Two tokens of equal logits up to rounding may change places.
    assert len(wrong) <= 0.002 * found.table.num_rows * found.table.num_columns


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", sorted(FOLDERS))
def test_half_precision_finds_the_same_contributors(family: str, dtype: str) -> None:
    corpus = Corpus.from_wikitext(EXCERPT, max_units=12)
    half, full = (
        ffn_predictions(pyengine.load(str(FOLDERS[family]), dtype=d), corpus, "value")
        for d in (dtype, "float32")
    )
    pairs = zip(half.table["top_dims"].to_pylist(), full.table["top_dims"].to_pylist(), strict=True)
    assert np.mean([len({*a} & {*b}) for a, b in pairs]) > 9
    probs = np.array(half.table["top_probs"].to_pylist())
    assert ((probs > 0) & (probs <= 1)).all()


def test_the_largest_contributors_are_those_of_all() -> None:
    found = predict(tiny_model("bert"), random_units(20), "value", n=5, all_values=True)
    for row in found.table.to_pylist():
        sizes = row["all_contributions"]
        order = sorted(range(37), key=lambda dim: (-sizes[dim], dim))[:5]
        assert row["top_dims"] == order
        for name in ("coefficients", "contributions", "tokens"):
            assert row[f"top_{name}"] == [row[f"all_{name}"][dim] for dim in order]
        for name in ("final", "ffn"):
            assert row[f"top_{name}_ranks"] == [row[f"all_{name}_ranks"][dim] for dim in order]
            probs = [row[f"all_{name}_probs"][dim] for dim in order]
            assert row[f"top_{name}_probs"] == pytest.approx(probs, rel=1e-6)
        assert row["n_active"] == sum(c > 0 for c in row["all_coefficients"])
        assert row["n_negative"] == sum(c < 0 for c in row["all_coefficients"])
        active = [
            token
            for token, c in zip(row["all_tokens"], row["all_coefficients"], strict=True)
            if c > 0
        ]
        assert row["n_distinct"] == len(set(active))
        assert row["n_matching_ffn"] == active.count(row["ffn_token"])


def test_equal_contributions_are_ordered_by_dim() -> None:
    """All keys and all values are copies of one another."""
    hf = tiny_model("gpt2")
    with torch.no_grad():
        for block in hf.transformer.h:
            block.mlp.c_fc.weight[:] = block.mlp.c_fc.weight[:, :1]
            block.mlp.c_fc.bias[:] = 1.0
            block.mlp.c_proj.weight[:] = block.mlp.c_proj.weight[:1]
    found = predict(hf, random_units(20), "value", n=37, position="all")
    for row in found.table.to_pylist():
        assert row["top_dims"] == list(range(37))
        assert len({*row["top_contributions"]}) == 1
        assert row["n_distinct"] == (1 if row["top_coefficients"][0] > 0 else 0)


def test_zero_memories_are_the_zero_vector() -> None:
    """Coefficient 0: token 0, every rank the token's id, every probability 1 / V; as computed."""
    found = predict(tiny_model("t5"), random_units(30), "value", n=37, all_values=True)
    n_zero = 0
    for row in found.table.to_pylist():
        for place, dim in enumerate(row["top_dims"]):
            if row["top_coefficients"][place]:
                continue
            n_zero += 1
            assert row["all_tokens"][dim] == row["top_tokens"][place] == 0
            for name in ("final", "ffn"):
                ranks = row[f"all_{name}_ranks"][dim], row[f"top_{name}_ranks"][place]
                assert ranks == (row[f"{name}_token"],) * 2
                probs = row[f"all_{name}_probs"][dim], row[f"top_{name}_probs"][place]
                assert probs == pytest.approx((1 / VOCAB, 1 / VOCAB), rel=1e-6)
    assert n_zero > 1000


def test_negative_coefficients_say_the_opposite() -> None:
    """GELU's small negative coefficients: the best token of the value turned round, not active."""
    found = predict(tiny_model("gpt2").double(), random_units(), "value", n=37, position="all")
    hf = tiny_model("gpt2").double()
    seen = 0
    for row in found.table.to_pylist():
        block = hf.transformer.h[row["layer"]]
        logits = block.mlp.c_proj.weight @ hf.lm_head.weight.t()
        for place, dim in enumerate(row["top_dims"]):
            if row["top_coefficients"][place] < 0:
                assert row["top_tokens"][place] == int(logits[dim].argmin())
                seen += 1
    assert seen > 1000


def test_summary_is_what_the_rows_say() -> None:
    found = predict(tiny_model("t5"), random_units(30), "value", n=4, all_values=True)
    rows = found.table.to_pylist()
    for layer, summed in enumerate(found.summary().to_pylist()):
        mine = [row for row in rows if row["layer"] == layer]
        gold = [row for row in mine if row["gold_token"] is not None]
        top = [sum(row["top_contributions"]) / sum(row["all_contributions"]) for row in mine]
        wanted = {
            "layer": layer,
            "n_examples": len(mine),
            "mean_active": np.mean([row["n_active"] for row in mine]),
            "median_active": np.median([row["n_active"] for row in mine]),
            "active_share": np.mean([row["n_active"] for row in mine]) / 37,
            "mean_negative": 0,
            "mean_distinct": np.mean([row["n_distinct"] for row in mine]),
            "no_match_final": np.mean([row["n_matching_final"] == 0 for row in mine]),
            "no_match_ffn": np.mean([row["n_matching_ffn"] == 0 for row in mine]),
            "no_match_gold": np.mean([row["n_matching_gold"] == 0 for row in gold]),
            "top_contribution_share": np.mean(top),
        }
        for part in ("residual", "ffn"):
            hits = [row[f"{part}_token"] == row["final_token"] for row in mine]
            wanted[f"{part}_predicts_final"] = np.mean(hits)
            probs = [row[f"{part}_final_prob"] for row in mine]
            wanted[f"mean_{part}_final_prob"] = np.mean(probs)
            hits = [row[f"{part}_token"] == row["gold_token"] for row in gold]
            wanted[f"{part}_gold_accuracy"] = np.mean(hits)
        assert summed == pytest.approx(wanted, rel=1e-6)


def test_units_of_one_token_have_no_next_token() -> None:
    rows = predict(tiny_model("gpt2"), [[5], [9], [3]], "value").table.to_pylist()
    for row in rows:
        assert row["gold_token"] is None and row["n_matching_gold"] is None
        assert row["top_gold_ranks"] == [None] * 10 == row["top_gold_probs"]
        assert all(math.isfinite(p) for p in row["top_final_probs"])


def test_a_few_memories_are_projected_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyengine.analyses import value_mode

    how: dict[str, Any] = {"position": "all", "all_values": True, "batch_tokens": 60}
    whole = predict(tiny_model("bert").double(), random_units(), "value", **how)
    monkeypatch.setattr(value_mode, "MEMORY_ROWS", 29)
    pieces = predict(tiny_model("bert").double(), random_units(), "value", **how)
    assert disagreements(pieces.table, whole.table.to_pylist(), 1e-6) == []

"""Layer predictions against brute force in float64, and their bits."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from prediction_brute_force import Oracle, disagreements, positions, predictions
from prediction_helpers import FOLDERS, batching, predict, random_units, trained_units
from tiny_models import FAMILIES, tiny_model

import pyengine
from pyengine import Corpus
from pyengine.analyses.predictions import ffn_predictions
from pyengine.embedded import EXCERPT


@pytest.mark.parametrize("head", ["full", "embedding"])
@pytest.mark.parametrize("final_norm", ["on", "off"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_brute_force(family: str, tied: bool, final_norm: str, head: str) -> None:
    hf = tiny_model(family, tie_word_embeddings=tied).double()
    units = random_units()
    settings: dict[str, Any] = {"final_norm": final_norm, "head": head, "position": "all"}
    found = predict(hf, units, **settings, **batching(family))
    rows = predictions(hf, units, "layer", final_norm=final_norm == "on", head=head, rule="all")
    assert len(rows) == sum(map(len, units)) * found.manifest["model"]["n_layers"]
    assert disagreements(found.table, rows, 1e-6) == []


@pytest.mark.parametrize(("rule", "seed"), [("random", 0), ("random", 2**64 - 1), ("last", 0)])
@pytest.mark.parametrize("family", sorted(FOLDERS))
def test_equals_brute_force_on_trained_models(family: str, rule: str, seed: int) -> None:
    model = pyengine.load(str(FOLDERS[family]), dtype="float64")
    corpus = Corpus.from_wikitext(EXCERPT, max_units=5)
    how = batching(family) | {"batch_tokens": 1 if family == "gpt_neo" else 120}
    found = ffn_predictions(model, corpus, position=rule, seed=seed, **how)
    units, around = trained_units(model, corpus)
    rows = predictions(
        model.hf, units, "layer", final_norm=True, head="full", rule=rule, seed=seed, **around
    )
    assert disagreements(found.table, rows, 1e-6) == []
    at = [positions(rule, seed, i, len(unit))[0] for i, unit in enumerate(units)]
    assert found.examples["position"].to_pylist() == at
    tokens = [unit[p] for unit, p in zip(units, at, strict=True)]
    assert found.examples["token"].to_pylist() == tokens
    prefixes = [found.text.decode(unit[: p + 1]) for unit, p in zip(units, at, strict=True)]
    assert found.examples["prefix"].to_pylist() == prefixes
    assert found.examples["text"].to_pylist() == [found.text.decode(unit) for unit in units]


def test_bos_is_read_but_never_looked_at() -> None:
    model = pyengine.load("demo", dtype="float64")
    corpus = Corpus.from_wikitext(EXCERPT, max_units=3)
    found = ffn_predictions(model, corpus, position="all", bos=True)
    units, _ = trained_units(model, corpus)
    bos = model.tokenizer.bos_token_id  # type: ignore[union-attr]
    how: dict[str, Any] = {"final_norm": True, "head": "full", "rule": "all", "prefix": (bos,)}
    assert disagreements(found.table, predictions(model.hf, units, "layer", **how), 1e-6) == []
    assert len(found.examples) == sum(map(len, units))


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_reads_out_as_float64_would(family: str) -> None:
    """Same activations, read in float64: what is left is the rounding of the readout."""
    hf, units = tiny_model(family), random_units()
    found = predict(hf, units, position="all", activation="model", batch_tokens=1)
    rows = predictions(hf, units, "layer", final_norm=True, head="full", rule="all")
    assert disagreements(found.table, rows, 3e-5) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_our_activation_and_batches_stay_close(family: str) -> None:
    hf, units = tiny_model(family), random_units()
    ours = predict(hf, units, position="all", batch_tokens=40)
    assert ours.manifest["numerics"]["activation"] == "fused"
    rows = predictions(hf, units, "layer", final_norm=True, head="full", rule="all")
    names = [name for name in ours.table.column_names if "prob" in name or "token" in name]
    table = ours.table.select(["unit", "position", "layer", *names])
    assert len(disagreements(table, rows, 1e-3)) <= 0.01 * len(rows)


@pytest.mark.parametrize("mode", ["layer", "value"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", sorted(FOLDERS))
def test_half_precision_stays_close(family: str, dtype: str, mode: str) -> None:
    corpus = Corpus.from_wikitext(EXCERPT, max_units=7)
    how: dict[str, Any] = {"mode": mode, "position": "all", "batch_tokens": 300}
    half, full = (
        ffn_predictions(pyengine.load(str(FOLDERS[family]), dtype=d), corpus, **how)
        for d in (dtype, "float32")
    )
    assert sum(half.record["n_nan"]) == 0
    for name in ("final_token", "residual_token", "ffn_token"):
        same = np.equal(half.table[name].to_numpy(), full.table[name].to_numpy())
        assert same.mean() > (0.97 if dtype == "float16" else 0.85), name
    a, b = (part.table["residual_norm"].to_numpy() for part in (half, full))
    assert (np.abs(a - b) <= 0.02 * b).all()


def test_final_token_is_the_models_own_whatever_the_readout() -> None:
    hf, units = tiny_model("gpt2").double(), random_units()
    last = predict(hf, units, position="last")
    bare = predict(hf, units, position="last", final_norm="off", head="embedding", layers=[0])
    own = [int(hf(input_ids=torch.tensor([unit])).logits[0, -1].argmax()) for unit in units]
    for found in (last, bare):
        n_layers = len(found.manifest["question"]["layers"])
        assert found.table["final_token"].to_pylist()[::n_layers] == own
    of_last = last.table.filter(np.array(last.table["layer"]) == 2)
    assert set(of_last["layer_final_rank"].to_pylist()) == {0}
    assert of_last["layer_token"].equals(of_last["final_token"])
    assert of_last["layer_prob"].equals(of_last["final_prob"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_predicts_the_final_token_with_the_same_bits(family: str) -> None:
    found = predict(tiny_model(family), random_units(40), position="all", batch_tokens=64)
    layers = np.array(found.table["layer"])
    lasts = [1, 4] if family.startswith("t5") else [layers.max()]
    of_last = found.table.filter(np.isin(layers, lasts))
    assert of_last["layer_token"].equals(of_last["final_token"])
    assert of_last["layer_prob"].equals(of_last["final_prob"])
    assert of_last["layer_final_prob"].equals(of_last["final_prob"])


@pytest.mark.parametrize("mode", ["layer", "value"])
@pytest.mark.parametrize(("family", "layers"), [("gpt2", [1]), ("t5", [0, 3]), ("t5", [1])])
def test_a_limit_on_the_layers_changes_no_bits(family: str, layers: list[int], mode: str) -> None:
    units, hf = random_units(30), tiny_model(family)
    whole = predict(hf, units, mode, batch_tokens=40)
    some = predict(hf, units, mode, batch_tokens=40, layers=layers)
    kept = whole.table.filter(np.isin(np.array(whole.table["layer"]), layers))
    assert some.table.equals(kept.combine_chunks())


@pytest.mark.parametrize("mode", ["layer", "value"])
def test_shards_in_memory_add_up(mode: str) -> None:
    hf, units = tiny_model("t5"), random_units(30)
    how: dict[str, Any] = {"position": "all", "batch_tokens": 40, "block_tokens": 30}
    whole = predict(hf, units, mode, **how)
    parts = [predict(hf, units, mode, shard=(i, 3), **how).table for i in range(3)]
    assert whole.table.equals(pa.concat_tables(parts))


def test_oracle_reads_the_models_own_logits() -> None:
    """The oracle itself: last layer, final norm and head give what transformers gives."""
    for family in FAMILIES:
        hf = tiny_model(family).double()
        oracle = Oracle(hf, final_norm=True, head="full")
        inputs = {"input_ids": torch.tensor([[4, 8, 15]])}
        if family.startswith("t5"):
            inputs["decoder_input_ids"] = torch.tensor([[0, 4, 8, 15]])
        output, sites = oracle.forward(inputs)
        r, y, _ = sites[-1]
        logits = oracle.logits(r + y, len(sites) - 1, norm=True, head="full")
        torch.testing.assert_close(logits, output.logits[0])

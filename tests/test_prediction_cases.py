"""Layer predictions where the answers are known, and what cannot be asked."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from prediction_brute_force import disagreements
from prediction_helpers import predict, random_units
from tiny_models import tiny_model

import pyengine
from pyengine import PyengineError
from pyengine.analyses.predictions import ffn_predictions


def one_layer(**parts: float) -> Any:
    """A one-layer untied GPT-2 of which some parts are multiplied by a number."""
    hf = tiny_model("gpt2", n_layer=1, tie_word_embeddings=False)
    modules = {
        "attention": hf.transformer.h[0].attn.c_proj,
        "values": hf.transformer.h[0].mlp.c_proj,
        "tokens": hf.transformer.wte,
        "places": hf.transformer.wpe,
    }
    with torch.no_grad():
        for name, factor in parts.items():
            for parameter in modules[name].parameters():
                parameter.mul_(factor)
    return hf


def test_residual_only_network() -> None:
    found = predict(one_layer(values=0.0), random_units(), position="all").table.to_pylist()
    for row in found:
        assert row["layer_token"] == row["residual_token"] == row["final_token"]
        # A zero output says what the final norm's bias says, the same everywhere.
        assert row["ffn_token"] == found[0]["ffn_token"]
        equal = row["ffn_token"] == row["layer_token"]
        assert row["kind"] == ("agreement" if equal else "residual")
        assert row["changed_without_residual"] is not equal
        assert row["residual_norm_rank"] == 0
    assert {row["kind"] for row in found} >= {"residual"}


def test_ffn_only_network() -> None:
    hf = one_layer(attention=0.0, tokens=0.0, places=0.0)
    found = predict(hf, random_units(), position="all").table.to_pylist()
    for row in found:
        assert row["layer_token"] == row["ffn_token"] == row["final_token"]
        assert row["layer_prob"] == row["ffn_prob"]
        assert (row["residual_norm"], row["residual_norm_rank"]) == (0, row["n_active"])
        assert row["kind"] == "ffn"
        assert not row["changed_without_residual"]


def test_one_memory_that_writes_a_token_is_found() -> None:
    """Value 5 is a multiple of token 60's embedding, and the only one that is not zero."""
    hf = one_layer(values=0.0)
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_fc.bias[5] = 1000.0
        hf.transformer.h[0].mlp.c_proj.weight[5] = 10 * hf.lm_head.weight[60]
        hf.lm_head.weight[60] *= 3  # no other embedding is longer along it
    how: dict[str, Any] = {"final_norm": "off", "head": "embedding", "position": "all"}
    for row in predict(hf, random_units(), **how).table.to_pylist():
        assert row["ffn_token"] == row["layer_token"] == 60
        assert row["n_matching_ffn"] == row["n_matching_layer"] == 1
        assert row["residual_norm_rank"] == 1


@pytest.mark.parametrize("mode", ["layer", "value"])
@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_nan_is_null_and_counted(family: str, mode: str) -> None:
    """One token's embedding overflows: its units are lost, the others are as they were."""
    hf = tiny_model(family)
    units = [[1, 2, 3], [4, 5, 6, 7], [8, 2, 3]]
    clean = predict(hf, units, mode, position="last", batch_tokens=1)
    with torch.no_grad():
        hf.get_input_embeddings().weight[5] = torch.inf
        hf.get_output_embeddings().weight = torch.nn.Parameter(
            hf.get_output_embeddings().weight.nan_to_num(posinf=0.0)
        )
    found = predict(hf, units, mode, position="last", batch_tokens=1)
    rows = found.table.to_pylist()
    lost = [row for row in rows if row["unit"] == 1]
    assert all(row["final_token"] is None and row["residual_token"] is None for row in lost)
    assert all(row["final_prob"] is None and row["ffn_residual_rank"] is None for row in lost)
    assert all(row["residual_norm"] is None or row["residual_norm"] > 0 for row in lost)
    if mode == "layer":
        assert all(row["kind"] is None and row["layer_gold_rank"] is None for row in lost)
        assert all(row["n_matching_layer"] is None for row in lost)
    assert found.record["n_nan"] == [1] * len(lost)
    kept = [row["n_active"] for row in rows if row["unit"] != 1]
    assert kept == [row["n_active"] for row in clean.table.to_pylist() if row["unit"] != 1]
    summary = found.summary().to_pylist()
    assert all(0 <= row["residual_predicts_final"] <= 1 for row in summary)


def test_summary_is_what_the_rows_say() -> None:
    found = predict(tiny_model("gpt2"), random_units(30), position="all", batch_tokens=64)
    rows = found.table.to_pylist()
    for layer, summed in enumerate(found.summary().to_pylist()):
        mine = [row for row in rows if row["layer"] == layer]
        gold = [row for row in mine if row["gold_token"] is not None]
        active = [row["n_active"] for row in mine]
        wanted = {
            "layer": layer,
            "n_examples": len(mine),
            "mean_active": np.mean(active),
            "median_active": np.median(active),
            "active_share": np.mean(active) / 37,
            "mean_negative": np.mean([row["n_negative"] for row in mine]),
            "no_match_layer": np.mean([row["n_matching_layer"] == 0 for row in mine]),
            "no_match_ffn": np.mean([row["n_matching_ffn"] == 0 for row in mine]),
            "residual_predicts_final": np.mean(
                [row["residual_token"] == row["final_token"] for row in mine]
            ),
            "mean_residual_final_prob": np.mean([row["residual_final_prob"] for row in mine]),
        }
        for kind in ("agreement", "residual", "ffn", "composition"):
            wanted[kind] = np.mean([row["kind"] == kind for row in mine])
        for part in ("layer", "residual", "ffn"):
            hits = [row[f"{part}_token"] == row["gold_token"] for row in gold]
            wanted[f"{part}_gold_accuracy"] = np.mean(hits)
        assert summed == pytest.approx(wanted)


def test_no_more_rows_are_projected_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One position of each unit: values once, then three rows a layer and one more."""
    from pyengine import readout

    rows: list[int] = []
    project = readout.vocab_project

    def counted(x: torch.Tensor, *args: Any, **more: Any) -> Any:
        rows.append(len(x))
        return project(x, *args, **more)

    monkeypatch.setattr(readout, "vocab_project", counted)
    predict(tiny_model("gpt2"), random_units(19), batch_tokens=10_000)
    assert sum(rows) == 3 * 37 + 20 * (3 * 3 + 1)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_batch_that_does_not_fit_is_computed_in_parts(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyengine.ffn_sites import FFNSites

    units, run = random_units(20), FFNSites.run
    whole = predict(tiny_model(family).double(), units, position="all")

    def scarce(self: Any, batch: Any, *args: Any) -> None:
        run(self, batch, *args)
        if len(batch.units) > most:
            raise torch.OutOfMemoryError("not enough")

    monkeypatch.setattr(FFNSites, "run", scarce)
    most = 3
    found = predict(tiny_model(family).double(), units, position="all")
    assert (whole.record["exact"], found.record["exact"]) == (True, False)
    assert disagreements(found.table, whole.table.to_pylist(), 1e-6) == []
    most = 0
    with pytest.raises(PyengineError, match="out of memory on a single unit"):
        predict(tiny_model(family).double(), units)


def test_the_callers_model_is_left_alone() -> None:
    hf = tiny_model("t5_gated")
    before = {name: type(module) for name, module in hf.named_modules()}
    logits = hf(input_ids=torch.tensor([[3]]), decoder_input_ids=torch.tensor([[3]])).logits
    predict(hf, random_units())
    assert {name: type(module) for name, module in hf.named_modules()} == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hf.modules())
    after = hf(input_ids=torch.tensor([[3]]), decoder_input_ids=torch.tensor([[3]])).logits
    assert torch.equal(logits, after)


def test_a_model_without_a_head_reads_through_its_embedding() -> None:
    hf = transformers.GPT2Model(tiny_model("gpt2").config).eval()
    with pytest.raises(PyengineError, match="no output head; head='embedding'"):
        predict(hf, random_units())
    found = predict(hf, random_units(), head="embedding", final_norm="on")
    last = found.table.filter(np.array(found.table["layer"]) == 2)
    assert last["final_token"].equals(last["layer_token"])


def test_an_encoder_on_its_own() -> None:
    config = tiny_model("t5").config
    torch.manual_seed(0)
    found = predict(transformers.T5EncoderModel(config).eval(), random_units(), head="embedding")
    assert found.manifest["question"]["layers"] == [0, 1]
    assert found.table["gold_token"].null_count == 0


def test_empty_store_gives_empty_tables() -> None:
    from pyengine.store import Report, TokenStore

    store = TokenStore.in_memory(np.zeros(0, np.uint16), np.zeros(1, np.int64), Report(), False)
    model = pyengine.load((tiny_model("gpt2"), None))
    for mode in ("layer", "value"):
        found = ffn_predictions(model, store, mode)
        assert (found.table.num_rows, found.examples.num_rows) == (0, 0)
        assert found.summary()["n_examples"].to_pylist() == [0, 0, 0]


def test_progress_counts_content_tokens() -> None:
    seen: list[tuple[int, int]] = []
    units = random_units(20)
    predict(tiny_model("gpt2"), units, batch_tokens=30, on_progress=lambda *at: seen.append(at))
    assert [total for _, total in seen] == [sum(map(len, units))] * len(seen)
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "both"}, "unknown mode 'both'; known are: layer, value"),
        ({"position": "first"}, "unknown position 'first'"),
        ({"final_norm": "yes"}, "unknown final_norm 'yes'; known are: on, off"),
        ({"head": "lm"}, "unknown head 'lm'"),
        ({"seed": -1}, r"seed must be from 0 to 2\*\*64 - 1, got -1"),
        ({"layers": [9]}, "layer 9 is out of range; the model has 0 to 2"),
        ({"layers": []}, "no layers given"),
        ({"batch_tokens": 0}, "batch_tokens must be a whole number from 1 on"),
        ({"activation": "fast"}, "unknown activation 'fast'"),
        ({"all_values": True}, "all_values=True needs mode='value'"),
        ({"mode": "value", "n": 38}, r"n must be from 1 to 37 \(d_ff\), got 38"),
        ({"mode": "value", "final_norm": "on"}, "mode='value' reads every memory through the bare"),
        ({"mode": "value", "head": "full"}, "depend on its coefficient"),
        ({"output_dist": True}, "output_dist=True is streamed to disk; give a run directory"),
        ({"shard": (2, 2)}, "shard 2 of 2 does not exist"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        predict(tiny_model("gpt2"), random_units(), **settings)


def test_the_fused_kernel_is_refused_in_float64() -> None:
    with pytest.raises(PyengineError, match="use activation='model' in float64"):
        predict(tiny_model("gpt2").double(), random_units(), activation="fused")

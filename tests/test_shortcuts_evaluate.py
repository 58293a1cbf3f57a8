"""Evaluations from end to end: what stands in the tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from shortcut_score_cases import Oracle, corpus, fitted, of, values
from tiny_models import tiny_model

import pyengine
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.lens import maps_of

# Output projections that are zeroed: no block adds anything.
SILENT = {"gpt2": ("attn.c_proj", "mlp.c_proj"), "gpt_neo": ("attn.attention.out_proj", "c_proj")}


@pytest.mark.parametrize("tokens", ["one", "all"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "bert", "t5", "t5_gated"])
def test_samples_are_those_of_float64_distributions(family: str, tokens: str) -> None:
    model, shortcuts = fitted(family, tokens=tokens)
    stack, names = shortcuts.stacks[-1], ["id", "mat", "affine", "mat@2"]
    found: Any = evaluate(shortcuts, model, mappings=names, bootstrap=0)
    held, oracle = shortcuts.validation(), Oracle(model.hf)
    last = shortcuts.n_layers()
    assert found.samples.num_rows == len(names) * (last + 1) * len(held)
    for name in names:
        mapping = maps_of(shortcuts, name, stack)
        for layer in range(last + 1):
            rows = of(found.samples, mapping=name, layer=layer)
            exact = oracle.scores(held.states[:, last], mapping(layer)(held.states[:, layer]))
            assert rows["unit"].to_pylist() == held.units.tolist()
            assert rows["position"].to_pylist() == held.positions.tolist()
            assert rows["top_tokens"].to_pylist() == exact["top_tokens"].tolist()
            assert rows["rank"].to_pylist() == exact["rank"].tolist()
            for k in (1, 5, 10):
                assert rows[f"hit@{k}"].to_pylist() == (exact["place"] < k).tolist()
            for metric in ("surprisal", "kl", "entropy", "confidence", "gap"):
                got = values(rows, metric)
                np.testing.assert_allclose(got, exact[metric], rtol=2e-5, atol=2e-5)


def test_layers_are_means_with_intervals_around_them() -> None:
    model, shortcuts = fitted()
    found: Any = evaluate(shortcuts, model, bootstrap=200, early_exit=False)
    assert found.exits is None and found.savings is None
    for row in found.layers.to_pylist():
        rows = of(found.samples, mapping=row["mapping"], layer=row["layer"])
        assert row["n"] == rows.num_rows == len(shortcuts.validation())
        of_column = {f"precision@{k}": f"hit@{k}" for k in (1, 5, 10)}
        for metric in (*of_column, "surprisal", "kl", "entropy", "rank", "confidence"):
            mean = values(rows, of_column.get(metric, metric)).astype(float).mean()
            assert row[metric] == pytest.approx(mean, abs=1e-12)
            assert row[f"{metric}_low"] <= mean <= row[f"{metric}_high"]
    # At the last layer all mappings are the model, which agrees with itself.
    for row in of(found.layers, layer=3).to_pylist():
        assert row["precision@1"] == 1 and row["kl"] == 0 and row["rank"] == 0
        assert row["ece"] == pytest.approx(0, abs=1e-6)
    bins = of(found.calibration, mapping="mat", layer=1)
    assert values(bins, "n").sum() == len(shortcuts.validation())


def test_autocast_of_the_caller_changes_nothing() -> None:
    model, shortcuts = fitted()
    found: Any = evaluate(shortcuts, model, bootstrap=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = evaluate(shortcuts, model, bootstrap=0)
    assert found.samples.equals(again.samples) and found.r2.equals(again.r2)


def test_float64_model_is_scored_in_float64() -> None:
    model = pyengine.load((tiny_model("gpt2").double(), None))
    shortcuts = fit_shortcuts(model, corpus())
    found: Any = evaluate(shortcuts, model, mappings=["affine"], bootstrap=0)
    held = shortcuts.validation().states
    assert held.dtype == torch.float64
    exact = Oracle(model.hf).scores(held[:, 3], shortcuts.apply(held[:, 1], 1, kind="affine"))
    rows = of(found.samples, layer=1)
    for metric in ("surprisal", "kl", "entropy", "gap"):
        np.testing.assert_allclose(values(rows, metric), exact[metric], rtol=2e-7, atol=1e-12)


def test_intervals_of_all_tokens_are_over_units() -> None:
    model, shortcuts = fitted(tokens="all")
    held = shortcuts.validation()
    found: Any = evaluate(shortcuts, model, mappings=["mat"], bootstrap=2000, early_exit=False)
    row = of(found.layers, layer=1).to_pylist()[0]
    hits = values(of(found.samples, layer=1), "surprisal").astype(float)
    sums = [hits[held.units == unit].sum() for unit in held.units.unique()]
    sizes = [int((held.units == unit).sum()) for unit in held.units.unique()]
    generator = np.random.default_rng(5)
    drawn = generator.integers(0, len(sums), (20000, len(sums)))
    means = np.array(sums)[drawn].sum(1) / np.array(sizes)[drawn].sum(1)
    np.testing.assert_allclose(row["surprisal_low"], np.quantile(means, 0.025), rtol=0.03)
    np.testing.assert_allclose(row["surprisal_high"], np.quantile(means, 0.975), rtol=0.03)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_blocks_that_add_nothing_are_bridged_by_any_map(family: str) -> None:
    hf = tiny_model(family)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if any(f"{part}." in name for part in SILENT[family]):
                parameter.zero_()
    model = pyengine.load((hf, None))
    shortcuts = fit_shortcuts(model, corpus(), pairs="all")
    found: Any = evaluate(shortcuts, model, bootstrap=0, mappings=["id", "mat", "affine"])
    assert found.r2.num_rows == 3 * len(shortcuts.pairs())
    np.testing.assert_allclose(values(found.r2, "r2"), 1, atol=1e-6)
    assert (values(found.layers, "precision@1") == 1).all()
    np.testing.assert_allclose(values(found.layers, "kl"), 0, atol=1e-4)


def test_exits_come_from_the_same_samples() -> None:
    model, shortcuts = fitted()
    found: Any = evaluate(shortcuts, model, mappings=["mat", "id"], bootstrap=50)
    for name in ("mat", "id"):
        adaptive = of(found.exits, mapping=name, rule="adaptive").sort_by("lambda")
        first, last = adaptive.to_pylist()[0], adaptive.to_pylist()[-1]
        assert (first["lambda"], first["mean_layer"]) == (-1.112, 1)
        assert (last["lambda"], last["mean_layer"], last["precision@1"]) == (1.112, 3, 1)
        fixed = of(found.exits, mapping=name, rule="fixed").sort_by("layer")
        layers = of(found.layers, mapping=name).sort_by("layer")
        for k in (1, 5, 10):
            np.testing.assert_allclose(
                values(fixed, f"precision@{k}"), values(layers, f"precision@{k}")
            )
        np.testing.assert_allclose(values(fixed, "surprisal"), values(layers, "surprisal"))
    assert found.savings.num_rows == 4
    n = len(shortcuts.validation())
    assert found.exit_samples.num_rows == n * (13 + 22)


@pytest.mark.parametrize(("family", "first"), [("gpt2", 0), ("bert", 0), ("t5", 1)])
def test_exits_count_positions_in_what_the_model_reads(family: str, first: int) -> None:
    model, shortcuts = fitted(family, tokens="all", n_train=20)
    found: Any = evaluate(shortcuts, model, mappings=["mat"], bootstrap=0)
    positions = shortcuts.validation().positions.numpy()
    t, last = positions + first, shortcuts.n_layers()
    gaps = [values(of(found.samples, layer=layer), "gap") for layer in range(1, last)]
    for tenth in range(11):
        bar = 0.9 * tenth / 10 + 0.1 * np.exp(-4 * t / (t + 1).mean())
        stops = np.array([*(gap > bar for gap in gaps), bar < np.inf])
        rows = of(found.exit_samples, **{"lambda": tenth / 10})
        assert rows["position"].to_pylist() == positions.tolist()
        assert rows["layers"].to_pylist() == (1 + stops.argmax(0)).tolist()


def test_transfer_holds_the_own_layers_on_its_diagonal() -> None:
    model, shortcuts = fitted()
    found: Any = evaluate(shortcuts, model, mappings=["mat"], transfer=["mat"], bootstrap=0)
    assert found.transfer.num_rows == 3 * 4
    for layer in range(3):
        own = of(found.transfer, map_layer=layer, state_layer=layer).to_pylist()[0]
        row = of(found.layers, layer=layer).to_pylist()[0]
        for metric in ("precision@1", "surprisal", "kl"):
            assert own[metric] == pytest.approx(row[metric], rel=1e-12)
    there = of(found.transfer, map_layer=0, state_layer=2).to_pylist()[0]
    held = shortcuts.validation().states
    exact = Oracle(model.hf).scores(held[:, 3], shortcuts.apply(held[:, 2], 0))
    assert there["kl"] == pytest.approx(exact["kl"].mean(), rel=1e-4)
    assert there["precision@1"] == pytest.approx((exact["place"] == 0).mean())


def test_substitution_modes_stand_beside_the_maps() -> None:
    model, shortcuts = fitted(sub_modules=True)
    found: Any = evaluate(shortcuts, model, mappings=["mat"], substitution=True, bootstrap=0)
    names = pc.unique(found.layers["mapping"]).to_pylist()
    assert names == ["mat", "mat_attn", "mat_ffn", "mat_norm"]
    assert pc.unique(found.exits["mapping"]).to_pylist() == ["mat"]
    for mode in names[1:]:
        rows = of(found.layers, mapping=mode)
        assert rows["layer"].to_pylist() == [0, 1, 2, 3]
        assert values(rows, "precision@1")[3] == 1
        assert (values(rows, "kl")[:3] > 0).all()
    steps = found.r2.filter(pc.field("step").is_valid())
    assert steps["name"].to_pylist() == [f"p{b}_{t}_{t + 1}" for b in range(3) for t in range(6)]
    held = shortcuts.validation().states
    for row in steps.to_pylist():
        block, tap, _ = map(int, row["name"][1:].split("_"))
        x, y = held[:, row["source"]], held[:, row["target"]]
        errors = (shortcuts.sub_module(block, tap)(x) - y).double().square().sum(0)
        total = (y.double() - y.double().mean(0)).square().sum(0)
        assert row["r2"] == pytest.approx(float((1 - errors / total).mean()), rel=1e-5)
        assert row["residual_r2"] is None  # of a difference between two spaces


def test_the_identity_leads_across_no_sub_module_but_a_sum() -> None:
    model, shortcuts = fitted("t5", sub_modules=True)
    found: Any = evaluate(shortcuts, model, mappings=["id"], bootstrap=0, early_exit=False)
    for row in found.r2.to_pylist():
        assert (row["r2"] is None) == (row["step"] not in (None, "add"))
        assert (row["residual_r2"] is None) == (row["step"] is not None)


def test_own_maps_are_scored_beside_the_others() -> None:
    model, shortcuts = fitted()
    own = {layer: shortcuts.map(layer, kind="mat") for layer in range(3)}
    found: Any = evaluate(
        shortcuts, model, mappings=["mat"], extra={"tuned": own}, bootstrap=0, ranks=[2]
    )
    assert pc.unique(found.layers["mapping"]).to_pylist() == ["mat", "mat@2", "tuned"]
    mat, tuned = (of(found.samples, mapping=name).drop("mapping") for name in ("mat", "tuned"))
    assert mat.equals(tuned)
    mat, tuned = (of(found.r2, mapping=name).drop("mapping") for name in ("mat", "tuned"))
    assert mat.equals(tuned)


def test_both_stacks_of_t5_have_r2_and_the_decoder_scores() -> None:
    model, shortcuts = fitted("t5")
    found: Any = evaluate(shortcuts, model, bootstrap=0)
    assert pc.unique(found.r2["stack"]).to_pylist() == ["encoder", "decoder"]
    assert pc.unique(found.samples["stack"]).to_pylist() == ["decoder"]
    _, encoder = fitted("t5", stacks=("encoder",))
    alone: Any = evaluate(encoder, model, bootstrap=0)
    assert alone.samples is None and alone.layers is None and alone.n_samples == 0
    assert alone.r2.equals(of(found.r2, stack="encoder"))


def test_without_an_output_head_there_is_r2_alone(tmp_path: Path) -> None:
    whole = tiny_model("gpt2")
    bare = pyengine.load(whole.transformer)
    shortcuts = fit_shortcuts(bare, corpus())
    found: Any = evaluate(shortcuts, bare, bootstrap=0)
    _, other = fitted()
    wanted: Any = evaluate(other, fitted()[0], bootstrap=0)
    assert found.r2.equals(wanted.r2) and found.layers is None and found.samples is None
    with pytest.raises(pyengine.PyengineError, match="has no output head"):
        shortcuts.lens(bare)
    # A checkpoint of a body, loaded as a masked language model: its head is random.
    weights = {k: t for k, t in tiny_model("bert").state_dict().items() if k.startswith("bert.")}
    tiny_model("bert").save_pretrained(tmp_path, state_dict=weights)
    random = pyengine.load(tmp_path)
    assert random.absent
    shortcuts = fit_shortcuts(random, corpus(), mask=False)
    assert shortcuts.manifest["question"]["unembedding_sha256"] is None
    found = evaluate(shortcuts, random, bootstrap=0)
    assert found.r2.num_rows == 9 and found.layers is None

"""What mapped states are worth, against whole distributions in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from shortcut_score_cases import N_VALIDATION, Oracle, case, own_stack, run, stream
from tiny_models import FAMILIES, VOCAB, tiny_model

import pyengine
from pyengine import PyengineError
from pyengine.shortcuts import scores as scored
from pyengine.shortcuts.bootstrap import Bootstrap
from pyengine.shortcuts.calibration import expected_error, reliability
from pyengine.shortcuts.lens import Lens, final_readout, maps_of
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.scores import Final, score_maps

IDS = torch.tensor([[5, 17, 44, 8, 90, 3], [7, 7, 1, 60, 2, 88]])
MAPPINGS = ("id", "mat", "affine", "mat@3", "affine@3")
# Float32 logits of these models reach 50.
BAND: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5}


def scores_of(found: Any, mappings: Any = MAPPINGS) -> dict[str, dict[str, np.ndarray]]:
    shortcuts, model = found.shortcuts, found.model
    read = final_readout(model, shortcuts.stacks[-1])
    final = Final.of(read, found.held[:, -1])
    maps = {name: maps_of(shortcuts, name, shortcuts.stacks[-1]) for name in mappings}
    return score_maps(read, final, found.held, maps)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_metric_is_that_of_float64_distributions(family: str, tied: bool) -> None:
    found = case(family, tie_word_embeddings=tied)
    oracle, last = Oracle(found.model.hf), found.held[:, -1]
    for name, columns in scores_of(found).items():
        mapping = maps_of(found.shortcuts, name, own_stack(family))
        for layer in range(found.held.shape[1]):
            expected = oracle.scores(last, mapping(layer)(found.held[:, layer]))
            for key, values in expected.items():
                np.testing.assert_allclose(columns[key][layer], values, **BAND, err_msg=key)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_last_layer_is_the_model_itself(family: str, tied: bool) -> None:
    found = case(family, tie_word_embeddings=tied)
    hf = found.model.hf
    states, logits = stream(hf, own_stack(family), IDS), run(hf, IDS)
    last = states.shape[2] - 1
    for kind in MAPPINGS:
        lens = Lens(found.model, found.shortcuts, kind)
        torch.testing.assert_close(lens.logits(states[:, :, -1], last), logits)
        top = lens.project(states[:, :, -1].flatten(0, 1), last).top_ids[:, 0]
        assert torch.equal(top, logits.flatten(0, 1).argmax(1))
    for columns in scores_of(found).values():
        assert (columns["place"][-1] == 0).all() and (columns["rank"][-1] == 0).all()
        assert (columns["kl"][-1] == 0).all()


def test_lens_reads_the_mapped_state() -> None:
    found = case("gpt2")
    lens, h = Lens(found.model, found.shortcuts, "affine"), found.held[:6, 1].unflatten(0, (2, 3))
    mapped = found.shortcuts.apply(h, 1, kind="affine")
    expected = Oracle(found.model.hf).logits(mapped.flatten(0, 1)).reshape(2, 3, VOCAB)
    np.testing.assert_allclose(lens.logits(h, 1), expected, rtol=1e-5, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = lens.logits(h, 1)
        rounded = found.model.hf.lm_head(h)
    assert rounded.dtype == torch.bfloat16  # the caller's autocast was on
    assert torch.equal(under, lens.logits(h, 1))


def test_own_maps_are_read_through_the_same_slot() -> None:
    found = case("gpt2")
    own = {1: found.shortcuts.map(1, kind="mat")}
    h = found.held[:, 1]
    theirs = Lens(found.model, found.shortcuts, "mat").logits(h, 1)
    lens = Lens(found.model, found.shortcuts, own)
    assert torch.equal(lens.logits(h, 1), theirs)
    with pytest.raises(PyengineError, match="no map of layer 2; there are those of: 1"):
        lens.logits(h, 2)


def test_encoder_of_t5_has_no_output_head() -> None:
    found = case("t5", "encoder")
    with pytest.raises(PyengineError, match=r"encoder of .* has no output head"):
        Lens(found.model, found.shortcuts)


def test_another_model_is_refused() -> None:
    found = case("gpt2")
    other = pyengine.load(tiny_model("gpt2", seed=1))
    with pytest.raises(PyengineError, match="belong to another model"):
        Lens(other, found.shortcuts)


@pytest.mark.parametrize("kind", ["ridge", "id@3", "mat@", "mat@0", "mat@x", "mat@21"])
def test_what_is_no_mapping_is_refused(kind: str) -> None:
    found = case("gpt2")
    with pytest.raises(PyengineError, match=r"unknown mapping|does not name a rank|rank 20"):
        Lens(found.model, found.shortcuts, kind).logits(found.held[:, 0], 0)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = case("bert")
    whole = scores_of(found, ["affine"])["affine"]
    monkeypatch.setattr(scored, "ROWS", 7)
    monkeypatch.setattr(scored, "block_rows", lambda *_: 3)
    parts = scores_of(found, ["affine"])["affine"]
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, **BAND)


def test_kl_survives_logits_far_from_zero() -> None:
    found = case("gpt2")
    weight = torch.randn(VOCAB, 20, generator=torch.Generator().manual_seed(0))
    bias = torch.full((VOCAB,), -800.0)
    own = final_readout(found.model, "decoder")
    read = type(own)(weight, bias, own.steps, own.dtype)
    final = Final.of(read, found.held[:, -1])
    kl = scored.score_layer(read, final, found.held[:, 1], LinearMap())["kl"].double()
    exact = [
        (read.prepare(found.held[:, layer]).double() @ weight.double().t()).log_softmax(1)
        for layer in (3, 1)
    ]
    expected = (exact[0].exp() * (exact[0] - exact[1])).sum(1)
    # One unit in the last place of a float32 at 800 is 6e-5.
    assert ((kl - expected).abs() < 3e-4).all()


def test_nan_is_told_and_hits_nothing() -> None:
    found = case("gpt2")
    found.held[3, 1] = torch.nan
    columns = scores_of(found, ["id"])["id"]
    assert np.isnan(columns["surprisal"][1, 3]) and np.isnan(columns["kl"][1, 3])
    assert columns["rank"][1, 3] == -1 and columns["place"][1, 3] == 10
    assert (columns["top_tokens"][1, 3] == -1).all()
    assert not np.isnan(columns["kl"][[0, 2, 3]]).any()


def test_bootstrap_draws_units_with_all_their_rows() -> None:
    units = np.array([4, 4, 4, 9, 11, 11])
    values = np.array([[1.0], [2.0], [3.0], [10.0], [0.0], [6.0]])
    means = Bootstrap(units, 4000, seed=1).means(values)[:, 0]
    sums, sizes = {4: 6.0, 9: 10.0, 11: 6.0}, {4: 3, 9: 1, 11: 2}
    possible = {
        round((sums[a] + sums[b] + sums[c]) / (sizes[a] + sizes[b] + sizes[c]), 9)
        for a in sums
        for b in sums
        for c in sums
    }
    assert set(np.round(means, 9)) == possible
    again = Bootstrap(units, 4000, seed=1).means(values)[:, 0]
    assert np.array_equal(means, again)
    assert not np.array_equal(means, Bootstrap(units, 4000, seed=2).means(values)[:, 0])


def test_bootstrap_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(5, 2, (2500, 1))
    boot = Bootstrap(np.arange(2500), 2000)
    low, high = boot.intervals(boot.means(values))
    mean, half = values.mean(), 1.96 * values.std() / 50
    np.testing.assert_allclose([low[0], high[0]], [mean - half, mean + half], atol=0.006)


def test_bootstrap_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(30, 2))
    whole = Bootstrap(np.arange(30), 50).means(values)
    monkeypatch.setattr("pyengine.shortcuts.bootstrap.BLOCK_CELLS", 64)
    np.testing.assert_allclose(Bootstrap(np.arange(30), 50).means(values), whole)


def test_no_resamples_no_intervals() -> None:
    boot = Bootstrap(np.arange(3), 0)
    assert np.isnan(boot.intervals(boot.means(np.ones((3, 2))))).all()


def test_calibration_error_by_hand() -> None:
    # Bin 9: three rows; bin 1: 0.2 belongs to (0.1, 0.2]; bin 0: 0.
    sure = np.array([0.95, 0.97, 0.2, 1.0, 0.0])
    right = np.array([1.0, 0.5, 0.6, 0.9, 0.0])
    expected = (abs(0.05 - 0.47 - 0.1) + 0.4 + 0.0) / 5
    assert expected_error(sure, right) == pytest.approx(expected)
    assert np.isnan(expected_error(sure, np.full(5, np.nan)))
    table = reliability(sure, right)
    assert table["n"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    np.testing.assert_allclose(table["right"][9], 2.4 / 3)
    np.testing.assert_allclose(table["confidence"][9], (0.95 + 0.97 + 1) / 3)
    assert np.isnan(table["confidence"][5])


def test_nothing_but_rounding_is_put_at_zero() -> None:
    eps = torch.finfo(torch.float32).eps
    nats = torch.tensor([-200 * eps, -1e-3, -0.5, 0.2, torch.nan], dtype=torch.float64)
    found = scored.rounded_up(nats, torch.full((5,), 200.0, dtype=torch.float64), eps)
    assert found[:4].tolist() == [0, -1e-3, -0.5, 0.2]
    assert found[4].isnan()


def test_rows_are_those_of_the_validation() -> None:
    found = case("gpt2")
    assert scores_of(found, ["mat"])["mat"]["place"].shape == (4, N_VALIDATION)

"""trigger_examples against brute force: plain transformers, one unit at a time."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from brute_force import activations, candidates, select
from tiny_models import D_FF, FAMILIES, VOCAB, tiny_model

import pyengine
from pyengine import Corpus, PyengineError
from pyengine.batches import form_batches, plan_blocks
from pyengine.store import tokenize

BAND = 1e-5


def random_units(n: int = 40, longest: int = 20, seed: int = 1) -> list[list[int]]:
    """Units of random length, with one-token units, duplicates and shared prefixes."""
    rng = np.random.default_rng(seed)
    units = [rng.integers(1, VOCAB, rng.integers(1, longest)).tolist() for _ in range(n)]
    units[3] = units[1]
    units[7] = [*units[5][:4], 9, 9]
    units[11] = [units[2][0]]
    return units


def assert_same_within_band(
    triggers: pyengine.TriggerExamples, wanted: list[list[list[Any]]], sign: int = 1
) -> None:
    """Scores agree to 1e-5 of the layer's largest; other entries need scores that close."""
    assert len(wanted) == len(triggers.layers)
    for row, layer in enumerate(wanted):
        close = BAND * max(abs(e[0]) for entries in layer for e in entries)
        for column, entries in enumerate(layer):
            scores = triggers.scores[row, column]
            units, positions = triggers.units[row, column], triggers.positions[row, column]
            n = int((units >= 0).sum())
            assert n == len(entries)
            assert torch.isnan(scores[n:]).all()
            assert (units[n:] == -1).all()
            assert (positions[n:] == -1).all()
            for rank, (score, unit, position) in enumerate(entries):
                assert abs(float(scores[rank]) - score) <= close
                if (int(units[rank]), int(positions[rank])) != (unit, position):
                    near = [e for e in entries if abs(e[0] - score) <= 2 * close]
                    last = abs(entries[-1][0] - score) <= 2 * close
                    assert len(near) > 1 or last, "a different example without a tie"


def expected(hf: Any, units: list[list[int]], k: int, value: str = "post", **how: Any) -> Any:
    found = candidates(hf, units, prefix=[], suffix=[], value=value)
    return [[select(entries, k, units=units, **how) for entries in layer] for layer in found]


@pytest.mark.parametrize("activation", ["fused", "model"])
@pytest.mark.parametrize("value", ["post", "pre"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_brute_force_one_unit_at_a_time(family: str, value: str, activation: str) -> None:
    hf, units = tiny_model(family), random_units()
    found = pyengine.trigger_examples(
        pyengine.load((hf, None)),
        Corpus.from_token_ids(units),
        k=5,
        value=value,
        activation=activation,
        batch_tokens=64,
        block_tokens=150,
    )
    assert found.scores.shape == (found.manifest["model"]["n_layers"], D_FF[family], 5)
    assert_same_within_band(found, expected(hf, units, 5, value))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("per", ["unit", "token", "prefix"])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_equals_brute_force_for_every_rule_of_competition(family: str, per: str, k: int) -> None:
    hf, units = tiny_model(family, seed=3), random_units(seed=4)
    model = pyengine.load((hf, None))
    if per == "prefix" and not model.family.causal:
        with pytest.raises(PyengineError, match="causal"):
            pyengine.trigger_examples(model, Corpus.from_token_ids(units), k=k, per=per)
        return
    found = pyengine.trigger_examples(
        model, Corpus.from_token_ids(units), k=k, per=per, batch_tokens=50, block_tokens=100
    )
    assert_same_within_band(found, expected(hf, units, k, per=per))


@pytest.mark.parametrize("sign", ["min", "both"])
def test_minima(sign: str) -> None:
    hf, units = tiny_model("gpt2"), random_units()
    found = pyengine.trigger_examples(
        pyengine.load((hf, None)), Corpus.from_token_ids(units), k=4, sign=sign, batch_tokens=64
    )
    low = found if sign == "min" else found.minima
    assert low is not None
    assert_same_within_band(low, expected(hf, units, 4, sign=-1))
    if sign == "both":
        assert_same_within_band(found, expected(hf, units, 4))


def test_floor_keeps_only_scores_strictly_above_it() -> None:
    hf, units = tiny_model("t5"), random_units()
    found = pyengine.trigger_examples(
        pyengine.load((hf, None)), Corpus.from_token_ids(units), k=30, floor=0.0, batch_tokens=64
    )
    wanted = expected(hf, units, 30, floor=0.0)
    assert any(len(entries) < 30 for layer in wanted for entries in layer)
    assert_same_within_band(found, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_model_activation_is_bit_equal_to_hugging_face_on_the_same_batches(family: str) -> None:
    hf, units = tiny_model(family), random_units()
    model = pyengine.load((hf, None))
    store = tokenize(Corpus.from_token_ids(units), None, max_tokens=32)
    found = pyengine.trigger_examples(
        model, store, k=6, per="token", activation="model", batch_tokens=64, block_tokens=150
    )
    entries: list[list[list[Any]]] = [
        [[] for _ in range(model.d_ff)] for _ in range(model.n_layers)
    ]
    boundaries = plan_blocks(store.offsets, 150)
    for first, last in itertools.pairwise(boundaries.tolist()):
        for batch in form_batches(
            store, (first, last), prefix=[], suffix=[], batch_tokens=64, base=0, pad_id=0
        ):
            _collect(hf, batch, entries)
    for row, layer in enumerate(entries):
        for column, found_entries in enumerate(layer):
            best = select(found_entries, 6, units=units, per="token")
            got = zip(
                found.scores[row, column].tolist(),
                found.units[row, column].tolist(),
                found.positions[row, column].tolist(),
                strict=True,
            )
            assert list(got) == best


def _collect(hf: Any, batch: Any, entries: list[list[list[Any]]]) -> None:
    """Run one batch through plain transformers and append every competing activation."""
    inputs = {
        "input_ids": torch.from_numpy(batch.input_ids),
        "attention_mask": torch.from_numpy(batch.attention_mask),
    }
    n_encoder = len(entries)
    if hf.config.model_type == "t5":
        decoder = batch.shifted(hf.config.decoder_start_token_id)
        inputs["decoder_input_ids"] = torch.from_numpy(decoder.input_ids)
        n_encoder = hf.config.num_layers
    for number, layer in enumerate(activations(hf, inputs)):
        first = 1 if number >= n_encoder else 0
        for row, unit in enumerate(batch.units.tolist()):
            for position in range(int(batch.lengths[row])):
                for dim, score in enumerate(layer[row, first + position].tolist()):
                    entries[number][dim].append((score + 0.0, unit, position))


def test_limits_to_layers_and_dims_change_nothing_else() -> None:
    model = pyengine.load((tiny_model("gpt_neo"), None))
    corpus = Corpus.from_token_ids(random_units())
    whole = pyengine.trigger_examples(model, corpus, k=5, batch_tokens=64)
    part = pyengine.trigger_examples(
        model, corpus, k=5, layers=[1, 3], dims=[0, 36, 20], batch_tokens=64
    )
    assert part.layers == (1, 3)
    assert part.dims == (0, 20, 36)
    for layer in part.layers:
        for dim in part.dims:
            assert part.examples(layer, dim) == whole.examples(layer, dim)
    with pytest.raises(PyengineError, match="no layer 2"):
        part.examples(2, 0)


def test_max_units_is_the_corpus_cut_short() -> None:
    model, units = pyengine.load((tiny_model("gpt2"), None)), random_units()
    cut = pyengine.trigger_examples(model, Corpus.from_token_ids(units, max_units=9), k=5)
    same = pyengine.trigger_examples(model, Corpus.from_token_ids(units[:9]), k=5)
    assert torch.equal(cut.scores, same.scores)
    assert torch.equal(cut.units, same.units)


def test_the_callers_model_is_untouched() -> None:
    hf = tiny_model("gpt2").train()
    before = {name: parameter.clone() for name, parameter in hf.named_parameters()}
    modules = [type(module) for module in hf.modules()]
    pyengine.trigger_examples(
        pyengine.load((hf, None)), Corpus.from_token_ids(random_units()), k=3, activation="model"
    )
    assert hf.training
    assert modules == [type(module) for module in hf.modules()]
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in hf.modules())
    assert all(torch.equal(before[name], p) for name, p in hf.named_parameters())


def test_nan_activations_are_counted_and_never_kept() -> None:
    hf, units = tiny_model("gpt2"), random_units()
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.bias[4] = math.inf
        hf.transformer.h[1].mlp.c_fc.bias[5] = -math.inf
    found = pyengine.trigger_examples(
        pyengine.load((hf, None)), Corpus.from_token_ids(units), k=3, value="pre", batch_tokens=64
    )
    assert (found.scores[1, 4] == math.inf).all()
    assert (found.scores[1, 5] == -math.inf).all()
    assert found.units[1, 4].tolist() == [0, 1, 2]
    assert found.record["n_nan"][0] == found.record["n_nan"][1] == 0
    assert found.record["n_nan"][2] > 0  # inf · 0 and inf - inf in the layers after
    assert torch.isnan(found.scores[2]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be from 1 to 1024, got 0"),
        ({"k": 1025}, "k must be from 1 to 1024"),
        ({"dims": [37]}, "dim 37 is out of range; the model has 0 to 36"),
        ({"dims": [-1]}, "dim -1 is out of range"),
        ({"layers": [3]}, "layer 3 is out of range"),
        ({"layers": []}, "no layers given"),
        ({"dims": [1, 1]}, "dims are given twice"),
        ({"per": "word"}, "unknown per 'word'; known are: unit, token, prefix"),
        ({"value": "mid"}, "unknown value 'mid'"),
        ({"sign": "up"}, "unknown sign 'up'"),
        ({"activation": "fast"}, "unknown activation 'fast'"),
        ({"floor": math.nan}, "floor"),
        ({"shard": (2, 2)}, "shard 2 of 2 does not exist"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    model = pyengine.load((tiny_model("gpt2"), None))
    with pytest.raises(PyengineError, match=message) as caught:
        pyengine.trigger_examples(model, Corpus.from_token_ids([[1, 2]]), **settings)
    assert "\n" not in str(caught.value)


def test_token_ids_beyond_the_vocabulary_are_refused() -> None:
    model = pyengine.load((tiny_model("gpt2"), None))
    with pytest.raises(PyengineError, match=f"token id {VOCAB}"):
        pyengine.trigger_examples(model, Corpus.from_token_ids([[1, VOCAB]]))


def test_nan_weights_are_refused_at_load() -> None:
    hf = tiny_model("bert")
    with torch.no_grad():
        hf.bert.encoder.layer[1].output.dense.weight[0, 0] = math.nan
    with pytest.raises(PyengineError, match=r"layer\.1\.output\.dense\.weight .* holds NaN"):
        pyengine.load((hf, None))

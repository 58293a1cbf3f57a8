"""Fits of every family against states and solutions that were come by otherwise."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from attribution_cases import SPECIAL
from shortcut_fit_cases import fitted, loaded, lstsq, sample, states_at, surrounded, texts, weight
from tiny_models import FAMILIES, tiny_model
from torch import Tensor

import pyengine
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.sample import TRAIN, VALIDATION
from pyengine.store import TokenStore, tokenize


def store_of(model: pyengine.Model) -> TokenStore:
    return tokenize(Corpus.from_texts(texts()), model.tokenizer, max_tokens=30)


def taken(found: Shortcuts, model: pyengine.Model, stack: str) -> list[tuple[int, int, int]]:
    """List (role, unit, position) of every token that is taken, by the rules alone."""
    question, whole = found.manifest["question"], store_of(model)
    drawn = sample(model, whole, found)
    if question["tokens"] == "one":
        places = zip(drawn.roles, drawn.units, drawn.positions[stack], strict=True)
        return [(int(role), int(unit), int(position)) for role, unit, position in places]
    before, after = surrounded(model, stack) if question["special"] else (0, 0)
    return [
        (int(role), int(unit), position)
        for role, unit in zip(drawn.roles, drawn.units, strict=True)
        for position in range(question["skip_first"] - before, int(whole.lengths[unit]) + after)
    ]


def states(found: Shortcuts, model: pyengine.Model, stack: str, role: int) -> Tensor:
    """Return [n, P, d], each unit run alone."""
    whole = store_of(model)
    places = [(unit, p) for of, unit, p in taken(found, model, stack) if of == role]
    fed = [(whole.unit_tokens(unit).tolist(), position) for unit, position in places]
    return states_at(model, found, stack, fed)


# GPT-Neo's attention is computed in float32, whatever the model's dtype: of states, and of maps.
TOLERANCES = {"gpt_neo": (1e-4, 1e-2)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "how",
    [
        {"tokens": "one", "sub_modules": True},
        {"tokens": "all", "pairs": "all"},
        {"tokens": "all", "skip_first": 1, "special": False, "solver": "gram"},
        {"tokens": "one", "solver": "exact", "pairs": "all", "sub_modules": True},
    ],
)
def test_states_and_maps_are_those_of_units_run_alone(family: str, how: dict[str, Any]) -> None:
    model, found = loaded(family), fitted(family, **how)
    of_states, of_maps = TOLERANCES.get(family, (1e-12, 2e-6))
    for stack in found.stacks:
        kept, places = found.validation(stack), taken(found, model, stack)
        expected = states(found, model, stack, VALIDATION)
        assert kept.states.dtype == torch.float64
        torch.testing.assert_close(kept.states, expected, rtol=of_states, atol=of_states)
        of_validation = [place[1:] for place in places if place[0] == VALIDATION]
        assert [*zip(kept.units.tolist(), kept.positions.tolist(), strict=True)] == of_validation
        assert found.record["n_rows"][stack] == [len(places) - len(kept), len(kept)]
        trained = states(found, model, stack, TRAIN)
        points = found.points(stack)
        for source, target in points.pairs(found.manifest["question"]["pairs"]):
            for kind in ("mat", "affine"):
                matrix, bias = lstsq(trained[:, source], trained[:, target], kind == "affine")
                got = _map(found, stack, source, target, kind)
                assert near(got.weight, matrix, of_maps)
                assert got.bias is None if bias is None else near(got.bias, bias, of_maps)


def near(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether tensors agree relative to what is largest in them."""
    return bool((got.double() - expected).abs().max() <= tolerance * expected.abs().max())


def _map(found: Shortcuts, stack: str, source: int, target: int, kind: str) -> Any:
    points = found.points(stack)
    for number, block in enumerate(points.taps):
        for tap, pair in enumerate(pairwise(block)):
            if pair == (source, target):
                return found.sub_module(number, tap, kind, stack=stack)
    return found.map(source, target, kind, stack=stack)


def test_special_tokens_of_an_encoder_can_be_drawn_and_masked() -> None:
    found, model = fitted("bert"), loaded("bert")
    places = taken(found, model, "encoder")
    lengths = store_of(model).lengths
    assert any(position == -1 for _, _, position in places)
    assert any(position == lengths[unit] for _, unit, position in places)
    assert found.manifest["question"]["mask_id"] == SPECIAL.index("[MASK]")
    content = fitted("bert", special=False)
    assert all(0 <= p < lengths[u] for _, u, p in taken(content, model, "encoder"))
    kept, as_it_is = found.validation(), fitted("bert", mask=False).validation()
    assert kept.positions.equal(as_it_is.positions)
    assert not torch.allclose(kept.states, as_it_is.states)
    assert (
        kept.table.tokens_of(int(kept.units[0])).tolist()
        == store_of(model).unit_tokens(int(kept.units[0])).tolist()
    )


def test_causal_units_are_kept_up_to_their_token() -> None:
    found, model = fitted("gpt2"), loaded("gpt2")
    kept, whole = found.validation(), store_of(model)
    assert kept.table.units.tolist() == kept.units.tolist()
    for unit, position in zip(kept.units.tolist(), kept.positions.tolist(), strict=True):
        fed = kept.table.tokens_of(unit).tolist()
        assert fed == whole.unit_tokens(unit).tolist()[: position + 1]


@pytest.mark.parametrize(
    ("asked", "tokens", "solver"),
    [
        ("auto", "one", "rows"),
        ("auto", "all", "gram"),
        ("rows", "all", "rows"),
        ("gram", "one", "gram"),
        ("exact", "one", "rows"),
        ("exact", "all", "exact"),
    ],
)
def test_the_solver_is_chosen_by_size_and_recorded(asked: str, tokens: str, solver: str) -> None:
    found = fitted(solver=asked, tokens=tokens, pairs="all", dtype=torch.float32)
    assert found.record["solver"] == {"decoder": solver}
    assert set(found.fits["solver"].to_pylist()) == {solver}


@pytest.mark.parametrize("solver", ["rows", "gram", "exact"])
def test_rank_condition_and_policy_of_singular_sources(solver: str) -> None:
    model, found = loaded("bert"), fitted("bert", solver=solver, sub_modules=True, tokens="all")
    fits = found.fits.to_pylist()
    trained = states(found, model, "encoder", TRAIN)
    for fit in fits:
        x = trained[:, fit["source"]]
        x = x - x.mean(0) if fit["kind"] == "affine" else x
        sigma = torch.linalg.svdvals(x)
        rank = int((sigma >= 2.0**-21 * sigma[0]).sum())
        assert fit["rank"] == rank and fit["n_rows"] == len(x)
        assert fit["condition"] == pytest.approx(float(sigma[0] / sigma[rank - 1]), rel=1e-4)
    # What a LayerNorm leaves lies in a hyperplane off the origin: singular once centred.
    assert {fit["rank"] for fit in fits if fit["kind"] == "affine" and fit["source"] == 1} == {19}


def test_ridge_shrinks_and_is_recorded() -> None:
    plain, shrunk = fitted(tokens="all"), fitted(tokens="all", ridge=100.0)
    assert weight(shrunk.map(0)).norm() < weight(plain.map(0)).norm()
    assert set(shrunk.fits["ridge"].to_pylist()) == {100.0}


def test_the_basis_is_of_the_outputs() -> None:
    found, model = fitted(tokens="all"), loaded("gpt2")
    outputs = states(found, model, "decoder", TRAIN)[:, 1] @ weight(found.map(1)).double().t()
    basis = found.basis(1).double()
    torch.testing.assert_close(basis.t() @ basis, torch.eye(20).double(), rtol=0, atol=1e-5)
    along = (outputs @ basis).square().mean(0)
    assert (along[:-1] >= along[1:] * (1 - 1e-5)).all()
    torch.testing.assert_close(along.sum(), outputs.square().sum(1).mean(), rtol=1e-6, atol=0)


def test_the_original_draw_needs_its_units() -> None:
    with pytest.raises(
        PyengineError, match=r"60 units .* 9000 .* and 3000 .* \(preset wikipedia\)"
    ):
        fitted(preset="wikipedia")
    with pytest.raises(PyengineError, match="preset wikipedia has n_train = 9000, not 5"):
        fitted(preset="wikipedia", n_train=5)
    with pytest.raises(PyengineError, match="unknown preset 'news'; known are: wikipedia"):
        fitted(preset="news")
    units = [[1 + i % 90, 2, 3][: 1 + i % 3] for i in range(13_000)]
    hf = tiny_model("gpt2", n_layer=1, n_embd=4, n_head=1, n_inner=4)
    found = fit_shortcuts((hf, None), Corpus.from_token_ids(units), preset="wikipedia", seed=3)
    assert found.record["n_rows"] == {"decoder": [9000, 3000]}
    assert len(np.unique(found.validation().units)) == 3000


@pytest.mark.parametrize(
    ("family", "more", "named"),
    [
        ("gpt2", {"mask": True}, "a mask is for masked language models"),
        ("bert", {"mask": True, "tokens": "all"}, "needs one token of each unit"),
        ("gpt2", {"stacks": ["encoder"]}, "has no encoder; its stacks are: decoder"),
        ("t5", {"stacks": []}, "some of encoder, decoder"),
        ("t5", {"stacks": ["decoder", "decoder"]}, "each once"),
        ("gpt2", {"pairs": "some"}, "unknown pairs 'some'"),
        ("gpt2", {"solver": "svd"}, "unknown solver 'svd'"),
        ("gpt2", {"ridge": -1.0}, "ridge must be a number from 0 on"),
        ("gpt2", {"rcond": 1.0}, "rcond must be from 0 to 1"),
        ("gpt2", {"rcond": 1e-9, "solver": "gram"}, r"at least 1\.2e-07 for the solver gram"),
        ("gpt2", {"n_train": 100}, "the corpus has 60 units"),
        ("gpt2", {"activation": "fused"}, "float32 at most"),
        ("gpt2", {"shard": (2, 2)}, "shard 2 of 2"),
        ("gpt2", {"batch_tokens": 0}, "batch_tokens"),
    ],
)
def test_what_cannot_be_is_refused(family: str, more: dict[str, Any], named: str) -> None:
    with pytest.raises(PyengineError, match=named):
        fitted(family, **more)


def test_masking_needs_a_mask_token() -> None:
    ids = Corpus.from_token_ids([[1, 2, 3]] * 20)
    with pytest.raises(PyengineError, match="without mask"):
        fit_shortcuts((tiny_model("bert"), None), ids)
    found = fit_shortcuts((tiny_model("bert"), None), ids, mask=False)
    assert found.record["n_rows"] == {"encoder": [15, 5]}


def test_some_stacks_are_fitted_as_among_all() -> None:
    alone, both = fitted("t5", stacks=["encoder"]), fitted("t5")
    assert alone.stacks == ("encoder",)
    assert weight(alone.map(0)).equal(weight(both.map(0, stack="encoder")))
    with pytest.raises(PyengineError, match="no decoder was fitted; fitted were: encoder"):
        alone.map(0, stack="decoder")

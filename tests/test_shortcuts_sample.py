"""Which rows a fit looks at."""

import numpy as np
import pytest
from tiny_models import tiny_model

import pyengine
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.model_batches import model_batches
from pyengine.shortcuts.sample import TRAIN, VALIDATION, Draw, Sample
from pyengine.store import TokenStore, tokenize

LENGTHS = [1, 2, 3, 5, 8, 13, 4, 1, 7, 30, 2, 6]
NONE = {"decoder": (0, 0)}


def store(repeat: int = 1) -> TokenStore:
    units = [list(range(1, n + 1)) for n in LENGTHS * repeat]
    return tokenize(Corpus.from_token_ids(units), max_tokens=32)


def test_units_are_drawn_by_seed_and_number_alone() -> None:
    whole = store(20)
    found = Sample.of(whole, Draw(n_train=30, n_validation=11), NONE, causal=True)
    again = Sample.of(whole, Draw(n_train=20, n_validation=5), NONE, causal=True)
    assert (np.diff(found.units) > 0).all()
    assert [int((found.roles == role).sum()) for role in (TRAIN, VALIDATION)] == [30, 11]
    assert set(again.units[again.roles == TRAIN]) < set(found.units[found.roles == TRAIN])
    other = Sample.of(whole, Draw(n_train=30, n_validation=11, seed=1), NONE, causal=True)
    assert (other.units != found.units).any()


def test_a_quarter_is_for_validation() -> None:
    found = Sample.of(store(), Draw(), NONE, causal=True)
    assert [int((found.roles == role).sum()) for role in (TRAIN, VALIDATION)] == [9, 3]
    assert len(found.units) == len(LENGTHS)


def test_a_causal_unit_ends_with_its_token() -> None:
    whole = store(20)
    found = Sample.of(whole, Draw(skip_first=1), NONE, causal=True)
    assert set(np.array(LENGTHS * 20)[found.units]) == set(LENGTHS) - {1}
    at = found.positions["decoder"]
    assert (at >= 1).all() and (at < whole.lengths[found.units]).all()
    assert (found.store.lengths == at + 1).all()
    for unit, tokens in enumerate(found.units):
        expected = whole.unit_tokens(int(tokens))[: at[unit] + 1]
        assert (found.store.unit_tokens(unit) == expected).all()
    assert found.store.source == whole.source


def test_positions_are_uniform() -> None:
    whole = tokenize(Corpus.from_token_ids([[1, 2, 3, 4]] * 4000), max_tokens=8)
    draw = Draw(n_train=3000, n_validation=1000)
    around = {"encoder": (1, 1)}
    found = Sample.of(whole, draw, around, causal=False).positions["encoder"]
    counts = np.bincount(found + 1, minlength=6)
    assert len(counts) == 6 and np.abs(counts - 4000 / 6).max() < 5 * np.sqrt(4000 / 6)
    # The first of the sequence is no likelier for those that are drawn first.
    assert np.abs(found[:1000].mean() - found[1000:].mean()) < 0.4


@pytest.mark.parametrize("tokens", ["one", "all"])
def test_rows_of_batches(tokens: str) -> None:
    model = pyengine.load((tiny_model("t5"), None))
    around = {"encoder": (0, 0), "decoder": (1, 0)}
    draw = Draw(tokens=tokens, n_train=6, n_validation=4, skip_first=1)
    found = Sample.of(store(), draw, around, causal=False)
    seen: dict[str, list[tuple[int, int]]] = {"encoder": [], "decoder": []}
    units = (0, found.store.n_units)
    for batches in model_batches(model, found.store, units, batch_tokens=40, decoder=True):
        for stack, batch in zip(seen, batches, strict=True):
            assert batch is not None
            rows, columns = found.rows(batch, stack)
            assert batch.attention_mask[rows, columns].all()
            pairs = zip(batch.units[rows], columns - batch.first, strict=True)
            seen[stack] += [(int(unit), int(position)) for unit, position in pairs]
    for stack, (before, after) in around.items():
        expected = [
            (unit, position)
            for unit, n in enumerate(found.store.lengths)
            for position in range(1 - before, n + after)
        ]
        if tokens == "one":
            expected = list(enumerate(found.positions[stack].tolist()))
            assert all(1 - before <= at < found.store.lengths[unit] for unit, at in expected)
        assert sorted(seen[stack]) == expected
        counts = [found.n_rows(stack, role) for role in (TRAIN, VALIDATION)]
        assert sum(counts) == len(expected) and min(counts) >= 4


def test_stacks_draw_apart() -> None:
    around = {"encoder": (0, 1), "decoder": (1, 0)}
    found = Sample.of(store(20), Draw(), around, causal=False).positions
    assert (found["encoder"] != found["decoder"] + 1).any()


def test_special_tokens_can_be_left_out() -> None:
    found = Sample.of(store(20), Draw(special=False), {"encoder": (1, 1)}, causal=False)
    at = found.positions["encoder"]
    assert (at >= 0).all() and (at < found.store.lengths).all()


def test_a_whole_corpus_is_not_copied() -> None:
    whole = store()
    found = Sample.of(whole, Draw(tokens="all"), NONE, causal=True)
    assert found.store is whole


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            {"n_train": 9, "n_validation": 4},
            "12 units .* too few for 9 to train on and 4 for valid",
        ),
        ({"n_train": 12}, "too few for 12 to train on and 3 for validation$"),
        ({"skip_first": 30}, "has 0 units with a token to take; a fit needs 4 at least"),
        ({"n_train": 0}, "n_train must be at least 1, got 0"),
        ({"tokens": "two"}, "unknown tokens 'two'"),
        ({"seed": -1}, "seed must be"),
        ({"skip_first": -1}, "skip_first must be"),
    ],
)
def test_bad_draws_are_refused(draw: dict[str, object], message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        Sample.of(store(), Draw(**draw), NONE, causal=True)  # type: ignore[arg-type]

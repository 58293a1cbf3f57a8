"""Blocks, shards and batches: every token once, whatever the sharding."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyengine.batches import (
    Batch,
    form_batches,
    padding_ratio,
    plan_blocks,
    shard_blocks,
)
from pyengine.competition import Competition
from pyengine.corpus import Corpus
from pyengine.embedded import EXCERPT
from pyengine.errors import PyengineError
from pyengine.store import TokenStore, tokenize
from pyengine.text import wikitext_sentences

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)
PREFIX, SUFFIX, PAD = [901, 902], [903], 900


def make_store(lengths: list[int]) -> TokenStore:
    random = np.random.default_rng(sum(lengths))
    units = [random.integers(0, 50, n) for n in lengths]
    return tokenize(Corpus.from_token_ids(units), max_tokens=1000)


def all_batches(store: TokenStore, block_tokens: int, **options: object) -> list[Batch]:
    cuts = plan_blocks(store.offsets, block_tokens)
    settings: dict = {"batch_tokens": 64, "pad_id": PAD} | options
    return [
        batch
        for block in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        for batch in form_batches(store, block, **settings)
    ]


@given(LENGTHS, st.integers(1, 300))
def test_blocks_cover_the_units(lengths: list[int], block_tokens: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    cuts = plan_blocks(offsets, block_tokens)
    assert cuts.dtype == np.int64
    assert cuts[0] == 0 and cuts[-1] == len(lengths)
    assert (np.diff(cuts) > 0).all()
    sizes = np.diff(offsets[cuts])
    assert (sizes < block_tokens + 2 * max(lengths)).all()


@given(st.integers(1, 50), st.data())
def test_shards_cover_all_blocks_once(n_blocks: int, data: st.DataObject) -> None:
    n_shards = data.draw(st.integers(1, 60))
    shards = [shard_blocks(n_blocks, i, n_shards) for i in range(n_shards)]
    assert [block for shard in shards for block in shard] == list(range(n_blocks))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("shard", "n_shards"), [(2, 2), (-1, 2), (0, 0)])
def test_impossible_shards_are_refused(shard: int, n_shards: int) -> None:
    with pytest.raises(PyengineError, match="shard"):
        shard_blocks(5, shard, n_shards)


@given(LENGTHS, st.integers(20, 200), st.integers(1, 100))
def test_batches_hold_every_token_once(
    lengths: list[int], block_tokens: int, batch_tokens: int
) -> None:
    store = make_store(lengths)
    options = {"prefix": PREFIX, "suffix": SUFFIX, "batch_tokens": batch_tokens}
    batches = all_batches(store, block_tokens, **options)
    units = np.concatenate([batch.units for batch in batches])
    assert sorted(units) == list(range(store.n_units))
    for batch in batches:
        n_rows, width = batch.input_ids.shape
        assert n_rows * width <= batch_tokens or n_rows == 1
        assert width == batch.lengths.max() + 3
        assert batch.n_tokens == batch.lengths.sum() and batch.n_computed == n_rows * width
        for row, unit in enumerate(batch.units):
            content = store.unit_tokens(unit).tolist()
            expected = [*PREFIX, *content, *SUFFIX]
            padding = width - len(expected)
            assert batch.lengths[row] == len(content)
            assert batch.input_ids[row].tolist() == expected + [PAD] * padding
            assert batch.attention_mask[row].tolist() == [1] * len(expected) + [0] * padding
            first = int(store.offsets[unit])
            ids = [-1, -1, *range(first, first + len(content)), -1] + [-1] * padding
            assert batch.ids[row].tolist() == ids


def test_arrays_have_the_documented_types() -> None:
    batch = all_batches(make_store([3, 1, 4]), 100)[0]
    for name in ("input_ids", "attention_mask", "ids", "units"):
        assert getattr(batch, name).dtype == np.int64, name
    assert batch.lengths.dtype == np.int32
    assert batch.units.tolist() == [1, 0, 2]


def test_equal_lengths_keep_their_order() -> None:
    batches = all_batches(make_store([2, 3, 2, 3, 2]), 1000)
    assert np.concatenate([batch.units for batch in batches]).tolist() == [0, 2, 4, 1, 3]


def test_base() -> None:
    store = tokenize(Corpus.from_token_ids([[1, 2, 3], [1, 2, 4], [1, 2]]), max_tokens=9)
    batch = next(form_batches(store, (0, 3), batch_tokens=99, base=-10))
    by_unit = dict(zip(batch.units.tolist(), batch.ids.tolist(), strict=True))
    assert by_unit == {0: [10, 11, 12], 1: [13, 14, 15], 2: [16, 17, -1]}


def test_what_competes_under_a_rule() -> None:
    store = tokenize(Corpus.from_token_ids([[1, 2, 3], [1, 2, 4], [1, 2]]), max_tokens=9)
    batch = next(form_batches(store, (0, 3), prefix=[2], suffix=[7], batch_tokens=99))

    def ids(batch: Batch, **rule: Any) -> dict[int, list[int]]:
        found = Competition(**rule).ids(batch)
        return dict(zip(batch.units.tolist(), found.tolist(), strict=True))

    every = {0: [-1, 0, 1, 2, -1], 1: [-1, 3, 4, 5, -1], 2: [-1, 6, 7, -1, -1]}
    assert ids(batch) == every
    new = {0: [-1, 0, 1, 2, -1], 1: [-1, -1, -1, 5, -1], 2: [-1] * 5}
    assert ids(batch, starts=store.prefix_starts()) == new
    late = {0: [-1, -1, -1, 2, -1], 1: [-1, -1, -1, 5, -1], 2: [-1] * 5}
    assert ids(batch, skip_first=2) == late
    without = {0: [-1, 0, -1, 2, -1], 1: [-1, 3, -1, -1, -1], 2: [-1, 6, -1, -1, -1]}
    assert ids(batch, exclude=(2, 4)) == without
    decoder = {unit: row[:-1] for unit, row in without.items()}
    assert ids(batch.shifted(0), exclude=(2, 4)) == decoder


def test_the_decoder_reads_the_text_shifted_right() -> None:
    store = tokenize(Corpus.from_token_ids([[5, 6, 7], [8]]), max_tokens=9)
    batch = next(form_batches(store, (0, 2), suffix=[1], batch_tokens=99, pad_id=0))
    assert batch.input_ids.tolist() == [[8, 1, 0, 0], [5, 6, 7, 1]]
    decoder = batch.shifted(0)
    assert decoder.input_ids.tolist() == [[0, 8, 0, 0], [0, 5, 6, 7]]
    assert decoder.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert decoder.ids.tolist() == [[-1, 3, -1, -1], [-1, 0, 1, 2]]
    assert decoder.units is batch.units
    assert (decoder.n_tokens, decoder.n_computed) == (4, 8)


@given(LENGTHS)
def test_shifted_content_is_reported_at_its_own_position(lengths: list[int]) -> None:
    store = make_store(lengths)
    for batch in all_batches(store, 100, suffix=SUFFIX):
        decoder = batch.shifted(77)
        for row, unit in enumerate(batch.units):
            content = store.unit_tokens(unit).tolist()
            assert decoder.input_ids[row, : len(content) + 1].tolist() == [77, *content]
            assert sorted(decoder.ids[row][decoder.ids[row] >= 0]) == sorted(
                batch.ids[row][batch.ids[row] >= 0]
            )


def test_rows_keeps_the_padded_length() -> None:
    batch = all_batches(make_store([3, 1, 4]), 100, prefix=PREFIX)[0]
    part = batch.rows(np.array([0, 2]))
    assert part.input_ids.shape == (2, 6)
    assert part.units.tolist() == [1, 2] and part.n_tokens == 5
    assert part.shifted(0).input_ids.shape == (2, 5)


def test_batches_do_not_depend_on_the_shard_count() -> None:
    store = make_store([7, 3, 9, 1, 5, 8, 2, 6, 4, 10, 3, 3])
    cuts = plan_blocks(store.offsets, 15)

    def shapes(n_shards: int) -> list[tuple[list[int], tuple[int, ...]]]:
        return [
            (batch.units.tolist(), batch.input_ids.shape)
            for i in range(n_shards)
            for b in shard_blocks(len(cuts) - 1, i, n_shards)
            for batch in form_batches(store, (int(cuts[b]), int(cuts[b + 1])), batch_tokens=20)
        ]

    assert len(cuts) > 3
    assert shapes(1) == shapes(2) == shapes(3)


def test_padding_of_real_sentences() -> None:
    # The shipped text is a quarter of a block, so the batches are a quarter of the default too.
    lines = EXCERPT.read_text(encoding="utf-8").split("\n")
    lengths = [len(text.split()) * 5 // 4 for line in lines for text in wikitext_sentences(line)]
    store = make_store([max(1, n) for n in lengths])
    assert store.n_tokens > 30_000
    assert padding_ratio(iter(all_batches(store, 32_768, batch_tokens=1024))) <= 1.10


@pytest.mark.parametrize("value", [0, -4, 1.5, True])
def test_budgets_must_be_positive(value: int) -> None:
    store = make_store([2])
    with pytest.raises(PyengineError, match="batch_tokens"):
        next(form_batches(store, (0, 1), batch_tokens=value))
    with pytest.raises(PyengineError, match="block_tokens"):
        plan_blocks(store.offsets, value)

"""States of ranges are added in one tree, whoever adds them and in whatever order."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from extract_cases import extracted
from hypothesis import given
from hypothesis import strategies as st

from pyengine.errors import PyengineError
from pyengine.extraction.partials import (
    MOST_HELD,
    PARTIALS,
    joined,
    partial_of,
    ranges_of,
    total,
)
from pyengine.extraction.states import merge_partials, summed
from pyengine.reducers.moments import Moments
from pyengine.shards import load_shard


def add(left: str, right: str) -> str:
    """Add in a way that shows the tree."""
    return f"({left}{right})"


def leaves(n_blocks: int) -> dict[int, str]:
    ranges = sorted({partial_of(block, n_blocks) for block in range(n_blocks)})
    return {PARTIALS + one: chr(ord("a") + one) for one in ranges}


def test_the_tree_of_a_whole_corpus() -> None:
    wanted = "((((ab)(cd))((ef)(gh)))(((ij)(kl))((mn)(op))))"
    assert total(leaves(16), add) == wanted
    assert joined(leaves(100), add) == {1: wanted}


def test_ranges_without_blocks_are_passed_over() -> None:
    assert total({}, add) is None
    assert total(leaves(1), add) == "p"
    assert total(leaves(5), add) == "((dg)(j(mp)))"
    assert joined(leaves(5), add, 5) == {1: "((dg)(j(mp)))"}


def test_nodes_are_halved_into_ranges() -> None:
    assert ranges_of(1) == range(16)
    assert [ranges_of(node) for node in (2, 3)] == [range(8), range(8, 16)]
    assert [ranges_of(16 + one) for one in range(16)] == [range(i, i + 1) for i in range(16)]


@given(
    n_blocks=st.integers(0, 20),
    cuts=st.lists(st.integers(0, 16), max_size=5),
    order=st.randoms(use_true_random=False),
    known=st.booleans(),
)
def test_any_shards_in_any_order_add_to_the_same(
    n_blocks: int, cuts: list[int], order: "object", known: bool
) -> None:
    every = leaves(n_blocks)
    bounds = [0, *sorted(cuts), 16]
    shards = [
        {leaf: state for leaf, state in every.items() if start <= leaf - PARTIALS < stop}
        for start, stop in itertools.pairwise(bounds)
    ]
    order.shuffle(shards)  # type: ignore[attr-defined]
    found: dict[int, str] = {}
    for shard in shards:
        found = joined(found | joined(shard, add, n_blocks if known else None), add)
    assert total(found, add) == total(every, add)


@pytest.mark.parametrize("n_blocks", [*range(1, 20), 100])
def test_few_states_are_held_at_a_time(n_blocks: int) -> None:
    held: dict[int, str] = {}
    for leaf, state in leaves(n_blocks).items():
        assert len(held) + 1 <= MOST_HELD
        held = joined({**held, leaf: state}, add, n_blocks)
    assert [*held] == [1]


def test_a_checkpoint_holds_one_state_of_each_level(tmp_path: Path) -> None:
    held: list[set[str]] = []

    def look(*_: int) -> None:
        (state,) = load_shard(next((tmp_path / "shards").glob("*"))).states
        held.append({name.partition(".")[0] for name in state})

    moments = {"blocks.1.mlp.hook_post": [Moments(37)]}
    extracted(moments, out=tmp_path, checkpoint_blocks=1, block_tokens=1, on_progress=look)
    assert max(map(len, held)) == MOST_HELD
    assert {"node02", "node06", "node14", "node30", "node31"} in held


def test_names_of_another_version_are_refused() -> None:
    old = {"07.count": np.zeros(3, np.int64)}
    for read in (lambda: merge_partials(Moments(3), None, old), lambda: summed(Moments(3), old)):
        with pytest.raises(PyengineError, match="partial sums '07' are of an older version"):
            read()

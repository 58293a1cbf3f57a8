"""Rows, Gram and TSQR in anybody's loop: order, merges, saved states, devices."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from extract_cases import extracted, same_bits
from hypothesis import given
from hypothesis import strategies as st
from shortcuts_cases import PAIRS, SOLVERS, D, P, fill, fresh, maps, rows, same

from pyengine.extraction.result import Extraction
from pyengine.merge_runs import merge_runs
from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.reducers.tsqr import TSQR


@pytest.mark.parametrize("name", SOLVERS)
@given(batches=st.lists(st.integers(0, 12), max_size=8))
def test_how_rows_are_batched_changes_no_bit(name: str, batches: list[int]) -> None:
    assert same(fill(fresh(name), rows(40), batches), fill(fresh(name), rows(40)))


@given(order=st.permutations(range(6)), tree=st.integers(0, 4))
def test_a_row_buffer_is_the_same_for_any_order_and_any_merges(order: list[int], tree: int) -> None:
    z = rows(30)
    places = torch.arange(30) // 4, torch.arange(30) % 4
    whole = RowBuffer(P, D)
    whole.add(z, places[0], places[1], places[0] * 10)
    parts = []
    for part in order:
        taken = torch.arange(30)[part::6].flip(0)
        parts.append(RowBuffer(P, D))
        units, positions = (place[taken] for place in places)
        parts[-1].add(z[taken], units, positions, units * 10)
    while len(parts) > 1:
        at = tree % (len(parts) - 1)
        parts[at].merge(parts.pop(at + 1))
    assert same(parts[0], whole)
    assert whole.rows.equal(z)
    for held, given_ in zip((whole.units, whole.positions), places, strict=True):
        assert held.equal(given_)
    assert whole.ids.equal(places[0] * 10)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_same_tree_of_merges_gives_the_same_bits(name: str) -> None:
    def tree() -> Any:
        parts = [fill(fresh(name), rows(n, seed=n)) for n in (5, 20, 0, 33)]
        parts[0].merge(parts[1])
        parts[2].merge(parts[3])
        parts[0].merge(parts[2])
        return parts[0]

    assert same(tree(), tree())
    whole = fill(fresh(name), torch.cat([rows(n, seed=n) for n in (5, 20, 33)]))
    assert tree().n_rows == whole.n_rows == 58
    torch.testing.assert_close(maps(tree()), maps(whole), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_merging_leaves_the_other_as_it_was(name: str) -> None:
    one, other = fill(fresh(name), rows(20)), fill(fresh(name), rows(24, seed=1))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    one.merge(other)
    fill(one, rows(30, seed=2))
    assert all(value.equal(before[key]) for key, value in other.state_dict().items())
    empty = fresh(name)
    empty.merge(other)
    fill(empty, rows(30, seed=2))
    assert all(value.equal(before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("n", [0, 3, 7, 20])
def test_a_saved_state_goes_on_as_if_it_had_not_stopped(name: str, n: int) -> None:
    state = fill(fresh(name), rows(n))
    again = fresh(name)
    again.add(rows(9, seed=5), torch.arange(9), torch.arange(9))  # forgotten
    again.load_state_dict(state.state_dict())
    assert same(again, state)
    for each in (state, again):
        fill(each, rows(17, seed=1))
    assert same(again, state)
    assert (again.n_rows, again.n_nan) == (n + 17, 0)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_snapshot_is_gone_back_to_more_than_once(name: str) -> None:
    state = fill(fresh(name), rows(17))
    wanted = fill(fresh(name), rows(17))
    snapshot, saved = state.snapshot(), state.state_dict()
    for seed, more in itertools.product((1, 2), (3, 30)):
        fill(state, rows(more, seed=seed))
        state.merge(fill(fresh(name), rows(8, seed=3)))
        assert not same(state, wanted)
        state.restore(snapshot)
        assert same(state, wanted)
    again = fresh(name)
    again.load_state_dict(saved)
    assert same(again, wanted)


@pytest.mark.parametrize("name", SOLVERS)
def test_looking_at_a_state_does_not_change_it(name: str) -> None:
    state, other = fill(fresh(name), rows(11)), fill(fresh(name), rows(11))
    maps(state)
    state.state_dict()
    for each in (state, other):
        fill(each, rows(11, seed=1))
    assert same(state, other)


@pytest.mark.parametrize("n_shards", [2, 5])
def test_shards_and_interruptions_give_the_same_bits(tmp_path: Path, n_shards: int) -> None:
    sites = tuple(f"blocks.{block}.hook_resid_pre" for block in range(3))

    def own() -> list[Any]:
        return [
            Gram(3, 20, PAIRS, block_rows=8),
            TSQR(3, 20, PAIRS, block_rows=8),
            RowBuffer(3, 20),
        ]

    def stop(*_: int) -> None:
        if next(steps) == 1:
            raise KeyboardInterrupt

    whole = extracted({sites: own()})
    for shard in range(n_shards):
        out, steps = tmp_path / f"part{shard}", itertools.count()
        part: dict[str, Any] = {"out": out, "shard": (shard, n_shards)}
        with pytest.raises(KeyboardInterrupt):
            extracted({sites: own()}, **part, on_progress=stop)
        extracted({sites: own()}, **part)
    parts = [tmp_path / f"part{shard}" for shard in range(n_shards)]
    for order in (parts, parts[::-1]):
        found = merge_runs([*order], tmp_path / f"from{order[0].name}", reducers=own())
        assert isinstance(found, Extraction)
        assert same_bits(found, whole)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SOLVERS)
def test_cuda_solves_the_same_and_merges_with_the_cpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    wanted = maps(fill(fresh(name), rows(60)))
    for devices in itertools.product(("cpu", "cuda"), repeat=2):
        halves = []
        with torch.autocast("cuda"):
            for device, half in zip(devices, rows(60).split(30), strict=True):
                halves.append(fill(fresh(name, device=device), half.to(device)))
            halves[0].merge(halves[1])
            found = maps(halves[0])
        assert found.device.type == devices[0]
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-9, atol=1e-11)
        again = fresh(name, device="cuda")
        again.load_state_dict(halves[0].state_dict())
        torch.testing.assert_close(maps(again).cpu(), wanted, rtol=1e-9, atol=1e-11)

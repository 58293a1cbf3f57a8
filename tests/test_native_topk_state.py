"""The state of the C++ fold: snapshots, saved states, copies."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_topk_cases import STREAMS, Twin, batch

from pyengine import native_topk, ops


@pytest.fixture(autouse=True)
def usual_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYENGINE_BACKEND", raising=False)


STEPS = ("fold", "fold", "again", "mark", "back", "load")


@settings(max_examples=80, deadline=None)
@given(**STREAMS, steps=st.lists(st.sampled_from(STEPS), min_size=3, max_size=16))
def test_going_back_is_exact_at_any_moment(
    seed: int,
    n_keys: int,
    k: int,
    floor: float | None,
    per_unit: bool,
    sign: int,
    ties: bool,
    wild: bool,
    steps: list[str],
) -> None:
    chance = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_topk, "LEAST_ROOM", 2)
        twin = Twin(n_keys, k, floor=floor, per_unit=per_unit)
    mark, top_of_mark = None, twin.top
    for number, step in enumerate(["fold", *steps]):
        if step == "fold":
            last = batch(chance, n_keys, ties, wild, 200 * number)
        if step in ("fold", "again"):
            values, ids = last
            twin.fold(values, ids, sign=sign)
        elif step == "mark":
            mark, top_of_mark = twin.state.snapshot(), twin.top.clone()
        elif step == "back" and mark is not None:
            twin.state.restore(mark)
            twin.top = top_of_mark.clone()
        elif step == "load":
            twin.state.load(twin.state.top)
            mark = None
        twin.check()


@pytest.mark.parametrize("repeated", [True, False])
def test_what_was_dropped_since_a_snapshot_comes_back(
    repeated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better and better scores push out everything that stood there, several times over."""
    monkeypatch.setattr(native_topk, "LEAST_ROOM", 2)
    twin = Twin(5, 4)
    values, ids = torch.randn(3, 3, 5), torch.arange(9).view(3, 3)
    for _ in range(1 + repeated):
        twin.fold(values, ids)
    before, mark = twin.top.clone(), twin.state.snapshot()
    for attempt in range(3):
        for number in range(1, 5):
            twin.fold(values + number + attempt, ids + 9 * number)
            twin.check()
        twin.state.restore(mark)
        twin.top = before.clone()
        twin.check()
    for _ in range(3):  # nothing is there twice
        twin.fold(values, ids)
        twin.check()
    twin.fold(values - 0.5, ids + 9)
    twin.check()


def test_a_batch_again_after_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_topk, "LEAST_ROOM", 2)
    first, twin = Twin(5, 4), Twin(5, 4)
    values, ids = torch.randn(3, 3, 5), torch.arange(9).view(3, 3)
    first.fold(values, ids)
    twin.state.load(first.state.top)
    twin.top = first.top
    for _ in range(3):
        twin.fold(values, ids)
        twin.fold(values - 0.5, ids + 9)
        twin.check()


def test_a_copy_goes_its_own_way() -> None:
    values, ids = torch.randn(3, 50, 4), torch.arange(150).view(3, 50)
    mine, its = Twin(4, 2), Twin(4, 2)
    mine.fold(values, ids)
    mine.state.snapshot()
    its.state, its.top = copy.deepcopy(mine.state), mine.top.clone()
    its.fold(values + 1, ids + 150)
    its.check()
    mine.check()


def test_only_the_latest_snapshot_can_be_restored() -> None:
    state = ops.TopKState(2, 1, device="cpu")
    first, second = state.snapshot(), state.snapshot()
    with pytest.raises(ValueError, match="only the latest snapshot can be restored"):
        state.restore(first)
    state.restore(second)
    state.load(state.top)
    with pytest.raises(ValueError, match="only the latest snapshot can be restored"):
        state.restore(second)

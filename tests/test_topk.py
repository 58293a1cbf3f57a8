"""Streaming top-k: exact against a sort of tuples, for any data, cut and order."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import Case, check_topk

from pyengine import ops, packed, reference, rows, torch_topk
from pyengine.errors import PyengineError

CASES = st.builds(
    Case,
    seed=st.integers(0, 10**6),
    n_keys=st.integers(1, 6),
    k=st.sampled_from([1, 2, 5, 40]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    sign=st.sampled_from([1, -1]),
    per_unit=st.booleans(),
    floor=st.sampled_from([None, 0.0, -0.5, -math.inf]),
    ties=st.booleans(),
    wild=st.booleans(),
    holes=st.booleans(),
    strided=st.booleans(),
    shapes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=4),
)
FLOATS = st.floats(width=32, allow_nan=False)
IDS = st.integers(0, 2**32 - 2)


@pytest.fixture(params=["native", "torch"])
def backend(request, monkeypatch):
    """Run a test on both implementations of the CPU, of which C++ is the usual one."""
    choose(monkeypatch, request.param)
    return request.param


def choose(patch, backend):
    if backend == "native":
        patch.delenv("PYENGINE_BACKEND", raising=False)
    else:
        patch.setenv("PYENGINE_BACKEND", backend)


@pytest.mark.parametrize("name", ["native", "torch", "reference"])
@settings(max_examples=100, deadline=None)
@given(case=CASES)
def test_topk_matches_a_sort(name, case):
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, name)
        check_topk(case)


@settings(max_examples=150, deadline=None)
@given(
    case=CASES,
    block=st.sampled_from([1, 3, 64]),
    chunk=st.sampled_from([64, 1 << 20]),
    merge_at_once=st.sampled_from([1, 2, 256]),
    few=st.sampled_from([0, 4]),
    dense=st.sampled_from([0.0, 0.15, 1.0]),
)
def test_tuning_never_changes_the_result(case, block, chunk, merge_at_once, few, dense):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYENGINE_BACKEND", "torch")
        patch.setattr(rows, "BLOCK", block)
        for name, value in {
            "CHUNK": chunk,
            "ROUND": merge_at_once,
            "FEW": few,
            "DENSE": dense,
        }.items():
            patch.setattr(torch_topk, name, value)
        check_topk(case)


@pytest.mark.parametrize("per_unit", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_rows_longer_than_a_block(per_unit, ties, backend):
    shapes = [(3, 150), (2, 64), (2, 65)]
    check_topk(Case(seed=5, k=30, per_unit=per_unit, ties=ties, holes=True, shapes=shapes))


def test_a_row_with_several_runs_is_one_unit(backend):
    values = torch.tensor([[5.0, 9.0, 7.0, 1.0, 6.0]])[:, :, None]
    ids = torch.tensor([[0, -1, 2, -1, 4]])
    assert _top(values, ids, k=3) == [(7.0, 2)]
    assert _top(values, ids, k=3, per_unit=False) == [(7.0, 2), (6.0, 4), (5.0, 0)]


def test_ties_keep_the_lower_id_and_negative_zero_is_zero(backend):
    values = torch.tensor([[-0.0, 0.0, 0.0], [0.0, -0.0, -1.0]])[:, :, None]
    ids = torch.arange(6).view(2, 3)
    assert _top(values, ids, k=2) == [(0.0, 0), (0.0, 3)]
    assert _top(values, ids, k=4, per_unit=False) == [(0.0, 0), (0.0, 1), (0.0, 2), (0.0, 3)]


def test_floor_keeps_strictly_larger_scores(backend):
    values = torch.tensor([[0.0, 1e-38, -1.0, 2.0]])[:, :, None]
    ids = torch.arange(4).view(1, 4)
    assert _top(values, ids, k=4, per_unit=False, floor=0.0) == [
        (2.0, 3),
        (float.fromhex("0x1.b38fb8p-127"), 1),
    ]


def test_load_continues_where_the_state_was_saved(backend):
    first, second = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    ids = torch.arange(12).view(4, 3)
    whole = ops.TopKState(2, 3, device="cpu", floor=0.0)
    resumed = ops.TopKState(2, 3, device="cpu", floor=0.0)
    _fold(whole, first, ids)
    resumed.load(whole.top.clone())
    assert torch.equal(resumed.threshold, whole.threshold)
    for state in (whole, resumed):
        _fold(state, second, ids + 12)
    assert torch.equal(resumed.top, whole.top)
    with pytest.raises(
        PyengineError, match=r"top must be int64 \(2, 3\), got torch.int64 \(2, 4\)"
    ):
        whole.load(torch.zeros(2, 4, dtype=torch.int64))


@given(FLOATS, IDS, FLOATS, IDS)
def test_keys_order_by_score_then_lower_id(a, i, b, j):
    for pack in (ops.pack, reference.pack):
        x, y = pack(torch.tensor([a, b]), torch.tensor([i, j])).tolist()
        assert (x > y) == ((a, -i) > (b, -j))
        assert x > ops.EMPTY


@given(FLOATS, IDS)
def test_unpack_inverts_pack(score, entry_id):
    for pack in (ops.pack, reference.pack):
        scores, ids = ops.unpack(pack(torch.tensor([score]), torch.tensor([entry_id])))
        assert scores.tolist() == [score] and ids.tolist() == [entry_id]


def test_packed_literals():
    scores = torch.tensor([1.0, 0.0, -0.0, -1.0, math.inf, -math.inf])
    ids = torch.tensor([0, 0, 2**32 - 2, 5, 0, 0])
    expected = [
        0x3F800000_FFFFFFFF,
        0x00000000_FFFFFFFF,
        0x00000000_00000001,
        -0x3F800001 * 2**32 + 0xFFFFFFFA,
        0x7F800000_FFFFFFFF,
        -0x7F800001 * 2**32 + 0xFFFFFFFF,
    ]
    assert reference.pack(scores, ids).tolist() == expected
    assert ops.pack(scores, ids).tolist() == expected
    scores, ids = ops.unpack(torch.tensor([ops.EMPTY]))
    assert math.isnan(scores.item()) and ids.tolist() == [-1]
    assert packed.score_of(torch.tensor([ops.EMPTY])).tolist() == [-math.inf]


def test_reference_topk_by_hand():
    top = torch.tensor([[reference.pack(torch.tensor(2.0), torch.tensor(9)), ops.EMPTY]])
    values = torch.tensor([[[3.0], [4.0]], [[math.nan], [2.0]]])
    ids = torch.tensor([[0, 1], [2, 3]])
    new = reference.topk_fold(top, values, ids, sign=1, per_unit=True, floor_key=ops.EMPTY)
    assert [tuple(c.tolist()) for c in ops.unpack(new[0])] == [(4.0, 2.0), (1, 3)]


@pytest.mark.parametrize("dense", [0.0, 1.0])
@pytest.mark.parametrize("per_unit", [True, False])
def test_a_row_of_nothing_but_nan_offers_nothing(per_unit, dense, backend, monkeypatch):
    monkeypatch.setattr(torch_topk, "DENSE", dense)
    nan, inf = math.nan, math.inf
    values = torch.tensor([[nan, nan, 3.0], [-inf, nan, 4.0]])[:, :, None]
    ids = torch.tensor([[0, 1, -1], [3, 4, -1]])
    assert _top(values, ids, k=3, per_unit=per_unit) == [(-inf, 3)]


def test_ids_must_ascend_along_a_row(backend):
    with pytest.raises(ValueError, match="ids must ascend along each row"):
        _top(torch.zeros(1, 3, 1), torch.tensor([[1, 1, -1]]), k=1)
    assert _top(torch.zeros(1, 3, 1), torch.tensor([[2, -1, 1]]), k=1) == [(0.0, 1)]


def test_spans_are_maximal_rectangles():
    ids = torch.tensor([[0, 1, -1], [2, 3, -1], [4, -1, 5], [-1, -1, -1], [-1, 6, 7]])
    expected = ((0, 2, 0, 2), (2, 3, 0, 1), (2, 3, 2, 3), (4, 5, 1, 3))
    assert ops.Rows(ids).spans == expected
    assert ops.Rows(torch.zeros(0, 4).long()).spans == ()
    assert ops.Rows(torch.zeros(4, 0).long()).spans == ()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 1, "floor": math.nan}, "floor must be a number, got nan"),
        ({"k": 1, "capacity": 48}, "capacity must be a power of two from 32 on, got 48"),
        ({"k": 1, "capacity": 16}, "capacity must be a power of two from 32 on, got 16"),
    ],
)
def test_state_refuses(arguments, message):
    with pytest.raises(PyengineError, match=message):
        ops.TopKState(2, **arguments, device="cpu")


@pytest.mark.parametrize(
    "values, options, message",
    [
        (torch.zeros(2, 2, 3), {}, r"values must be \[2, 3, F\], got \(2, 2, 3\)"),
        (torch.zeros(2, 3, 3), {"first_key": 2}, r"keys \[2, 5\) must lie in \[0, 4\)"),
        (torch.zeros(2, 3, 3), {"first_key": -1}, r"keys \[-1, 2\) must lie in \[0, 4\)"),
        (torch.zeros(2, 3, 3), {"sign": 0}, "sign must be 1 or -1, got 0"),
    ],
)
def test_fold_refuses(values, options, message):
    state = ops.TopKState(4, 2, device="cpu")
    with pytest.raises(ValueError, match=message):
        ops.topk_fold(
            state, values, torch.zeros(2, 3), ops.Rows(torch.zeros(2, 3).long()), **options
        )


def _fold(state, values, ids):
    captured = ops.ffn_capture(values, ops.Rows(ids), act="identity")
    ops.topk_fold(state, captured.values, captured.block_max[0], ops.Rows(ids))
    ops.topk_flush(state)


def _top(values, ids, **options):
    state = ops.TopKState(1, device="cpu", **options)
    _fold(state, values, ids)
    scores, kept = ops.unpack(state.top[0])
    return [(s, i) for s, i in zip(scores.tolist(), kept.tolist(), strict=True) if i >= 0]

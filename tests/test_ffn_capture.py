"""Capture: the activation against float64, block maxima and NaN counts exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import Case, check_capture

from pyengine import ops, reference
from pyengine.errors import PyengineError

CASES = st.builds(
    Case,
    seed=st.integers(0, 10**6),
    n_keys=st.sampled_from([1, 3, 8, 33]),
    act=st.sampled_from(ops.fused_activations()),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    wild=st.booleans(),
    holes=st.booleans(),
    strided=st.booleans(),
    shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=2),
)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@settings(max_examples=60, deadline=None)
@given(
    case=CASES,
    gated=st.booleans(),
    value=st.sampled_from(["post", "pre"]),
    signs=st.sampled_from([(1,), (-1,), (1, -1), (-1, 1)]),
    reuse=st.booleans(),
)
def test_capture_matches_float64(backend, case, gated, value, signs, reuse):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYENGINE_BACKEND", backend)
        check_capture(case, gated=gated, value=value, signs=signs, reuse=reuse)


def test_long_rows_are_cut_into_blocks_with_exact_maxima():
    case = Case(seed=3, n_keys=4, wild=True, shapes=[(2, 200), (3, 130)])
    check_capture(case, signs=(1, -1))
    ids = torch.arange(200).view(1, 200)
    values = torch.randn(1, 200, 3)
    captured = ops.ffn_capture(values, ops.Rows(ids), act="identity")
    expected = torch.stack([piece.amax(0) for piece in values[0].split(64)])
    assert torch.equal(captured.block_max[0], expected)


def test_reference_activations_at_known_points():
    x = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    known = {
        "identity": [0.0, 1.0, -1.0],
        "relu": [0.0, 1.0, 0.0],
        "gelu": [0.0, 0.841344746068543, -0.158655253931457],
        "gelu_tanh": [0.0, 0.841191990608276, -0.158808009391724],
        "silu": [0.0, 0.731058578630005, -0.268941421369995],
        "quick_gelu": [0.0, 0.845795765932821, -0.154204234067179],
    }
    assert set(known) == set(ops.fused_activations())
    for act, values in known.items():
        assert reference.activation(x, act).tolist() == pytest.approx(values, abs=1e-14)


def test_reference_capture_by_hand():
    pre = torch.tensor([[[1.0, -3.0], [2.0, math.nan]], [[9.0, 9.0], [-4.0, -5.0]]])
    ids = torch.tensor([[0, 1], [-1, 2]])
    out, values, block_max, n_nan = reference.ffn_capture(pre, ids, "relu", None, "pre", (1, -1))
    assert out.nan_to_num(7.0).tolist() == [[[1, 0], [2, 7]], [[9, 9], [0, 0]]]
    assert values is pre
    assert block_max.tolist() == [[[2, -3], [-4, -5]], [[-1, 3], [4, 5]]]
    assert n_nan.tolist() == [1]


def test_identity_without_gate_copies_nothing():
    pre = torch.randn(2, 3, 4)
    captured = ops.ffn_capture(pre, ops.Rows(torch.arange(6).view(2, 3)), act="identity")
    assert captured.out is pre and captured.values is pre


def test_gradients_are_refused_rather_than_lost():
    pre = torch.randn(2, 3, 4, requires_grad=True)
    rows = ops.Rows(torch.arange(6).view(2, 3))
    with pytest.raises(ValueError, match="pre requires grad, but this is not differentiable"):
        ops.ffn_capture(pre, rows, act="relu")
    captured = ops.ffn_capture(pre, rows, act="identity")
    assert captured.out is pre and not captured.block_max.requires_grad
    state = ops.TopKState(4, 2, device="cpu")
    ops.topk_fold(state, captured.values, captured.block_max[0], rows)
    assert bool((state.top != ops.EMPTY).all())


def test_reuse_works_in_place():
    pre = torch.randn(2, 3, 4)
    rows = ops.Rows(torch.arange(6).view(2, 3))
    for act in ("relu", "gelu", "gelu_tanh", "silu", "quick_gelu"):
        captured = ops.ffn_capture(pre, rows, act=act, up=torch.ones_like(pre), reuse=True)
        assert captured.out.data_ptr() == pre.data_ptr()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"act": "tanh"}, "act must be one of identity, relu.*got 'tanh'"),
        ({"value": "mid"}, "value must be 'post' or 'pre', got 'mid'"),
        ({"signs": ()}, "signs must be"),
        ({"signs": (1, 1)}, "signs must be"),
        ({"up": torch.zeros(2, 3, 5)}, r"up must be torch.float32 \(2, 3, 4\), got"),
    ],
)
def test_capture_refuses(change, message):
    arguments = {"act": "relu"} | change
    with pytest.raises(ValueError, match=message):
        ops.ffn_capture(torch.zeros(2, 3, 4), ops.Rows(torch.zeros(2, 3).long()), **arguments)


@pytest.mark.parametrize(
    "pre", [torch.zeros(2, 2, 4), torch.zeros(2, 3), torch.zeros(2, 3, 4, dtype=torch.float64)]
)
def test_capture_refuses_shapes_and_dtypes(pre):
    with pytest.raises(ValueError, match=r"pre must be float32, float16 or bfloat16 \[2, 3, F\]"):
        ops.ffn_capture(pre, ops.Rows(torch.zeros(2, 3).long()), act="relu")


def test_backend_override_is_checked(monkeypatch):
    rows = ops.Rows(torch.zeros(1, 1).long())
    monkeypatch.setenv("PYENGINE_BACKEND", "cuda")
    with pytest.raises(PyengineError, match="must be one of reference, torch, triton, got 'cuda'"):
        ops.ffn_capture(torch.zeros(1, 1, 1), rows, act="relu")
    monkeypatch.setenv("PYENGINE_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        PyengineError, match="PYENGINE_BACKEND=triton needs CUDA tensors, got 'cpu'"
    ):
        ops.ffn_capture(torch.zeros(1, 1, 1), rows, act="relu")


def test_a_device_without_kernels_is_refused(monkeypatch):
    monkeypatch.delenv("PYENGINE_BACKEND", raising=False)
    with pytest.raises(PyengineError, match="no kernels for device 'meta'"):
        ops.TopKState(2, 2, device="meta")


def test_rows_refuse_other_dtypes():
    with pytest.raises(ValueError, match=r"ids must be int64 \[B, T\], got torch.int32 \(2, 3\)"):
        ops.Rows(torch.zeros(2, 3, dtype=torch.int32))

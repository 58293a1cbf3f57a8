"""GELU by tanh in C++: its error against float64, and the same bits wherever a value stands."""

import math

import numpy as np
import pytest
import torch
from kernel_checks import Case, check_capture

from pyengine import _native, ops, reference, torch_ops

SPECIAL = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, -12.0, 12.0]


@pytest.fixture(autouse=True)
def usual_backend(monkeypatch):
    monkeypatch.delenv("PYENGINE_BACKEND", raising=False)


def captured(pre, ids=None, **options):
    ids = torch.arange(pre.shape[0] * pre.shape[1]).view(pre.shape[:2]) if ids is None else ids
    return ops.ffn_capture(pre, ops.Rows(ids), act="gelu_tanh", **options)


def gelu(x):
    """Apply it to float32 [n]."""
    return captured(x.view(1, 1, -1)).out.view(-1)


def bits(x):
    return x.view(torch.int32)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_error_is_at_most_that_of_the_torch_path():
    x = torch.cat([torch.linspace(-15, 15, 1_000_001), noise(100_000)])
    truth = reference.activation(x.double(), "gelu_tanh")
    scale = x.abs().clamp(min=1)
    error = (gelu(x) - truth).abs() / scale
    by_torch = (torch_ops.apply_activation(x, "gelu_tanh", None, False) - truth).abs() / scale
    assert error.max() <= min(2e-7, by_torch.max())


def test_small_and_negative_values_keep_their_digits():
    x = torch.cat([torch.linspace(-8, 4, 500_001), torch.logspace(-37, 0, 10_000)])
    u = math.sqrt(2 / math.pi) * (x.double() + 0.044715 * x.double() ** 3)
    truth = x * torch.sigmoid(2 * u)  # where 1 + tanh u would cancel
    eps = torch.finfo(torch.float32).eps
    allowed = torch.where(
        x >= -1, 3 * eps, eps * (3 + 4 * u.abs())
    )  # exp multiplies errors by |2u|
    assert bool(((gelu(x) - truth).abs() <= allowed * truth.abs()).all())


@pytest.mark.parametrize("value", SPECIAL)
def test_special_values_are_those_of_torch(value):
    x = torch.full((131,), value)
    expected = torch.nn.functional.gelu(x, approximate="tanh")
    found = gelu(x)
    assert torch.equal(found.isnan(), expected.isnan())
    numbers = bits(found) == bits(expected)  # so is the sign of zero
    assert bool((numbers | expected.isnan()).all())


def test_large_values_are_themselves_or_zero():
    x = torch.logspace(math.log10(15), 38, 1000)
    assert torch.equal(gelu(x), x)
    assert torch.equal(bits(gelu(-x)), bits(torch.full_like(x, -0.0)))


@pytest.mark.parametrize("n", [1, 2, 15, 17, 127, 128, 129, 300])
def test_bits_depend_on_neither_place_nor_neighbours(n):
    x = torch.cat([noise(n - min(n, 11), seed=n), torch.tensor(SPECIAL[: min(n, 11)])])
    alone = torch.cat([gelu(x[i : i + 1].clone()) for i in range(n)])
    assert torch.equal(bits(gelu(x)), bits(alone))
    for shift in (1, 3, 16):
        shifted = torch.cat([noise(shift), x])
        assert torch.equal(bits(gelu(shifted)[shift:]), bits(alone))
        assert torch.equal(bits(gelu(shifted[shift:])), bits(alone))  # misaligned


@pytest.mark.parametrize("shape", [(3, 5, 33), (2, 300, 1000), (1, 3, 100_000), (200, 7, 1)])
def test_threads_and_place_change_no_bit(shape):
    pre = noise(*shape)
    pre.view(-1)[::97] = math.nan
    ids = torch.arange(shape[0] * shape[1])
    ids[::3] = -1
    n_nan = int((pre.isnan() & (ids >= 0).view(*shape[:2], 1)).sum())
    expected = gelu(pre.view(-1)).numpy()
    for n_threads in (1, 3):
        for in_place in (False, True):
            x = pre.clone().view(-1).numpy()
            out = x if in_place else np.empty_like(x)
            assert _native.gelu_tanh(x, ids.numpy(), out, n_threads) == n_nan > 0
            assert np.array_equal(out.view(np.int32), expected.view(np.int32))
            assert in_place or np.array_equal(x, pre.view(-1).numpy(), equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (2, 3, 0), (0, 0, 0)])
@pytest.mark.parametrize("reuse", [True, False])
def test_nothing_is_computed_of_nothing(shape, reuse):
    found = captured(torch.empty(shape), reuse=reuse)
    assert found.out.shape == shape and found.n_nan.tolist() == [0]


@pytest.mark.parametrize("reuse", [True, False])
def test_strides_change_no_bit(reuse):
    wide = noise(4, 6, 200)
    for pre in (wide[..., ::2], wide[:, 1:5], wide.transpose(0, 1), wide[:1].expand(3, 6, 200)):
        original = pre.clone()
        found = captured(pre, reuse=reuse)
        assert torch.equal(bits(found.out), bits(gelu(original.reshape(-1)).view(pre.shape)))
        assert torch.equal(pre, original)


def test_reuse_is_in_place_and_seen_by_autograd():
    pre = noise(2, 3, 4)
    version = pre._version
    found = captured(pre, reuse=True)
    assert found.out.data_ptr() == pre.data_ptr() and pre._version > version
    assert torch.equal(pre, found.out)
    with torch.no_grad():
        parameter = noise(2, 3, 4).requires_grad_()
        assert not captured(parameter).out.requires_grad
    with torch.inference_mode():
        assert torch.equal(captured(noise(2, 3, 4), reuse=True).out, pre)


def test_infinities_count_where_they_become_nan():
    pre = torch.tensor([[[-math.inf, math.inf, 1.0]], [[math.nan, 0.0, -math.inf]]])
    ids = torch.tensor([[0], [1]])
    up = torch.tensor([0.0, 0.0, 1.0]).expand(2, 1, 3)
    assert captured(pre, ids).n_nan.tolist() == [3]
    assert captured(pre, ids, up=up).n_nan.tolist() == [4]
    assert captured(pre, ids, value="pre").n_nan.tolist() == [1]
    ids[1] = -1
    assert captured(pre, ids).n_nan.tolist() == [1]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("value", ["post", "pre"])
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("strided", [True, False])
def test_capture_matches_float64(gated, value, reuse, strided):
    for seed in range(6):
        case = Case(
            seed, n_keys=33, act="gelu_tanh", wild=seed % 2 == 0, holes=True, strided=strided
        )
        check_capture(case, gated=gated, value=value, signs=(1, -1), reuse=reuse)


def test_the_backend_decides(monkeypatch):
    pre = noise(2, 3, 400)
    usual = captured(pre).out
    calls = []
    monkeypatch.setattr(torch_ops, "native_gelu_tanh", lambda *_: calls.append(1))
    captured(pre.half())
    monkeypatch.setenv("PYENGINE_BACKEND", "torch")
    by_torch = captured(pre).out
    monkeypatch.setenv("PYENGINE_BACKEND", "reference")
    captured(pre)
    assert not calls
    assert torch.equal(by_torch, torch_ops.apply_activation(pre, "gelu_tanh", None, False))
    torch.testing.assert_close(usual, by_torch)


X, IDS = np.zeros(6, np.float32), np.zeros(2, np.int64)


@pytest.mark.parametrize(
    "values, ids, out, n_threads, message",
    [
        (X.astype(np.float64), IDS, X, 1, "values must be a 1-D float32 array, not float64"),
        (X, IDS.astype(np.int32), X, 1, "ids must be a 1-D int64 array, not int32"),
        (X, IDS, X[:5], 1, r"out must have shape \(6,\), not \(5,\)"),
        (X, IDS, np.zeros(12, np.float32)[::2], 1, "out must be contiguous"),
        (X, np.zeros(4, np.int64), X, 1, r"values have shape \(6,\), .* multiple of the 4 ids"),
        (X, IDS[:0], X, 1, r"values have shape \(6,\), .* multiple of the 0 ids"),
        (X, IDS, X, -1, "n_threads is -1, below 0"),
    ],
)
def test_bad_arrays_are_refused(values, ids, out, n_threads, message):
    with pytest.raises(ValueError, match=message):
        _native.gelu_tanh(values, ids, out, n_threads)

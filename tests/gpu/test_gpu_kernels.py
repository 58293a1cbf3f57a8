"""The kernels on a real device: bfloat16, big shapes, races; the oracles are those of the CPU."""

import itertools

import pytest
import torch
from kernel_checks import Case, check_capture, check_topk

from pyengine import ops

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ops.fused_activations())
@pytest.mark.parametrize("gated", [False, True])
def test_capture(act, dtype, gated):
    shapes = [(5, 37), (1, 1), (0, 4), (4, 0), (8, 64)]
    for strided, value, signs in itertools.product(
        (False, True), ("post", "pre"), ((1,), (-1,), (1, -1), (-1, 1))
    ):
        case = Case(7, 300, act=act, dtype=dtype, wild=True, strided=strided, shapes=shapes)
        check_capture(case, "cuda", gated=gated, value=value, signs=signs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_unit", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_topk(seed, per_unit, dtype):
    shapes = [(5, 37), (1, 1), (0, 4), (40, 3), (3, 150)]
    case = Case(
        seed,
        n_keys=[1, 37, 130][seed % 3],
        k=[1, 7, 50, 128][seed % 4],
        dtype=dtype,
        sign=[1, -1][seed % 2],
        per_unit=per_unit,
        floor=[None, 0.0, -0.5][seed % 3],
        ties=seed % 4 == 1,
        wild=seed % 5 == 2,
        holes=seed % 3 == 1,
        strided=seed % 2 == 1,
        shapes=shapes,
    )
    check_topk(case, "cuda")


@pytest.mark.parametrize("k", [5, 200])
@pytest.mark.parametrize("per_unit", [True, False])
def test_overflow_is_reported_and_repeated(k, per_unit):
    shapes = [(300, 2)] * 4
    overflows = [
        check_topk(Case(seed, 3, k, per_unit=per_unit, shapes=shapes), "cuda", 32, seen=10**6)
        for seed in range(8)
    ]
    assert any(overflows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_unit", [True, False])
def test_real_sizes_equal_the_cpu_path_and_themselves(dtype, per_unit):
    """Races show as differing bits between runs; the CPU path ranks the same captured values."""
    d_ff, k, n_batches = 3072, 50, 6
    first = _search(d_ff, k, n_batches, dtype, per_unit)
    again = _search(d_ff, k, n_batches, dtype, per_unit)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[0], first[1])


def _search(d_ff, k, n_batches, dtype, per_unit):
    generator = torch.Generator("cuda").manual_seed(0)
    state = ops.TopKState(d_ff, k, device="cuda", per_unit=per_unit)
    twin = ops.TopKState(d_ff, k, device="cpu", per_unit=per_unit)
    for batch in range(n_batches):
        pre = torch.randn(128, 61, d_ff, device="cuda", generator=generator).to(dtype)
        ids = torch.arange(128 * 61).view(128, 61) + batch * 128 * 61
        ids[:, 50:] = torch.where(torch.arange(128)[:, None] < 64, ids[:, 50:], -1)
        rows = ops.Rows(ids.cuda())
        captured = ops.ffn_capture(pre, rows, act="gelu_tanh")
        seen = batch * (128 if per_unit else 128 * 61)
        ops.topk_fold(state, captured.values, captured.block_max[0], rows, seen=seen)
        ops.topk_flush(state)
        assert not state.overflow.item()
        host = ops.ffn_capture(captured.values.cpu(), ops.Rows(ids), act="identity")
        ops.topk_fold(twin, host.values, host.block_max[0], ops.Rows(ids))
    return state.top.cpu(), twin.top


def test_folding_does_not_wait_for_the_device():
    torch.cuda.set_sync_debug_mode("error")
    try:
        pre = torch.zeros(4, 8, 256, device="cuda")
        rows = ops.Rows(torch.arange(32, device="cuda").view(4, 8))
        state = ops.TopKState(256, 50, device="cuda")
        captured = ops.ffn_capture(pre, rows, act="gelu_tanh", signs=(1, -1))
        for careful in (False, True):
            ops.topk_fold(state, pre, captured.block_max[0], rows, careful=careful)
        ops.topk_flush(state)
    finally:
        torch.cuda.set_sync_debug_mode("default")

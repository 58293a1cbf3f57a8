"""The C++ fold of the CPU against the oracle: any data, cut, order, layout and thread count."""

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


@settings(max_examples=60, deadline=None)
@given(**STREAMS, shuffled=st.booleans(), n_threads=st.sampled_from([1, 3]))
def test_any_stream_equals_the_oracle(
    seed: int,
    n_keys: int,
    k: int,
    floor: float | None,
    per_unit: bool,
    sign: int,
    ties: bool,
    wild: bool,
    shuffled: bool,
    n_threads: int,
) -> None:
    chance = np.random.default_rng(seed)
    twin = Twin(n_keys + 5, k, floor=floor, per_unit=per_unit)
    batches = [batch(chance, n_keys, ties, wild, 200 * i) for i in range(8)]
    if shuffled:  # and some of them twice
        batches = [batches[i] for i in chance.integers(0, len(batches), 12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_topk, "ALONE", 0)
        patch.setattr(torch, "get_num_threads", lambda: n_threads)
        for number, (values, ids) in enumerate(batches):
            twin.fold(values, ids, first_key=3, sign=sign)
            if number % 3 == 0:
                twin.check()
        twin.check()


@pytest.mark.parametrize("per_unit", [True, False])
@pytest.mark.parametrize("k", [1, 50, 300])
def test_more_keys_than_a_tile_and_many_tidyings(k: int, per_unit: bool) -> None:
    generator = torch.Generator().manual_seed(k)
    state = ops.TopKState(1100, k, device="cpu", per_unit=per_unit)
    folded = []
    for number in range(6):
        values = torch.randn(40, 30, 1100, generator=generator).round(decimals=1)
        ids = torch.arange(1200).view(40, 30) + 1200 * number
        folded.append(ops.pack(values, ids[:, :, None]))
        ops.topk_fold(state, values, None, ops.Rows(ids))
    keys = torch.cat(folded)
    keys = keys.amax(1) if per_unit else keys.flatten(0, 1)
    found = state.top
    n = min(k, len(keys))
    assert torch.equal(found[:, :n], keys.t().topk(n).values)
    assert bool((found[:, n:] == ops.EMPTY).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["transposed", "columns", "every other", "expanded", "offset"])
def test_any_layout_and_dtype(layout: str, dtype: torch.dtype) -> None:
    whole = torch.randn(6, 8, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = {
        "transposed": whole.transpose(0, 1)[:6, :, :],
        "columns": whole[:, :, 5:12],
        "every other": whole[:, :, ::2],
        "expanded": whole[:1].expand(6, -1, -1),
        "offset": whole[1:, 2:, 3:],
    }[layout]
    for per_unit in (True, False):
        twin = Twin(values.shape[2], 3, per_unit=per_unit)
        ids = torch.arange(values.shape[0] * values.shape[1]).view(values.shape[:2])
        twin.fold(values, ids.t().contiguous().t())
        twin.check()


def test_values_with_gradients_and_in_inference_mode() -> None:
    values, ids = torch.randn(2, 3, 4), torch.arange(6).view(2, 3)
    twin = Twin(4, 2)
    twin.fold(values.clone().requires_grad_(), ids)
    twin.check()
    with torch.inference_mode():
        twin.fold(values * 2, ids + 6)
        twin.check()


def test_ids_up_to_the_last_one() -> None:
    last = 2**32 - 2
    twin = Twin(1, 3)
    twin.fold(torch.tensor([[[1.0], [1.0], [2.0]]]), torch.tensor([[0, last - 1, last]]))
    twin.check()
    assert ops.unpack(twin.state.top)[1].tolist() == [[last, 0, last - 1]]
    with pytest.raises(ValueError, match=r"ids must be below 2\*\*32 - 1, got 4294967295"):
        ops.topk_fold(twin.state, torch.ones(1, 1, 1), None, ops.Rows(torch.tensor([[last + 1]])))
    twin.check()


def test_the_torch_backend_needs_block_maxima(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYENGINE_BACKEND", "torch")
    state = ops.TopKState(2, 1, device="cpu")
    assert state.backend == "torch" and state.needs_block_max and state.native is None
    with pytest.raises(ValueError, match="the torch backend needs block_max"):
        ops.topk_fold(state, torch.ones(1, 1, 2), None, ops.Rows(torch.zeros(1, 1).long()))

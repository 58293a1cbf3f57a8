"""Moments against NumPy in float64: every order, cut, mask and merge."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from pyengine import PyengineError, ops
from pyengine.reducers import moments
from pyengine.reducers.moments import KeyMoments, Moments

N_KEYS = 5
EXACT = ("count", "n_nan", "min", "max", "histogram")


def acts(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check(found: KeyMoments, values: np.ndarray) -> None:
    """Compare with [n, n_keys] of what has been fed; counts and extremes exactly."""
    for key, column in enumerate(values.T):
        legal = column[~np.isnan(column)].astype(np.float64)
        assert found.count[key] == len(legal)
        assert found.n_nan[key] == len(column) - len(legal)
        assert found.min[key] == legal.min() and found.max[key] == legal.max()
        assert float(found.mean[key]) == pytest.approx(legal.mean(), rel=1e-12, abs=1e-14)
        assert float(found.variance[key]) == pytest.approx(legal.var(), rel=1e-10)
        assert float(found.sample_variance[key]) == pytest.approx(legal.var(ddof=1), rel=1e-10)
        if found.histogram is not None and found.edges is not None:
            at = np.searchsorted(found.edges.numpy(), legal, side="right")
            expected = np.bincount(at, minlength=len(found.edges) + 1)
            assert found.histogram[key].tolist() == expected.tolist()


@pytest.mark.parametrize("asked", [(), ("cpu",)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_everything_against_numpy(
    dtype: torch.dtype, asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half precision is widened first: nothing is summed in it."""
    monkeypatch.setattr(moments, "ASKED", asked)
    for seed in range(8):
        source, random_numbers = random.Random(seed), torch.Generator().manual_seed(seed)
        monkeypatch.setattr(moments, "CHUNK", source.choice([1, 7 * N_KEYS, 1 << 17]))
        found, fed = Moments(N_KEYS, bins=6, range=(-1.5, 2), exclude=[3], skip_first=1), []
        for number in range(4):
            values = (acts(10 * seed + number, 6, 9, N_KEYS) * 3 + 2).to(dtype)
            values[torch.rand(values.shape, generator=random_numbers) < 0.05] = math.nan
            mask = torch.rand(6, 9, generator=random_numbers) < source.choice([0.5, 1.1])
            tokens = torch.randint(0, 5, (6, 9), generator=random_numbers)
            found.update(values, torch.arange(6), mask, tokens)
            rank = mask.cumsum(1) - 1
            fed.append(values[mask & (tokens != 3) & (rank >= 1)].double().numpy())
        check(found.compute(), np.concatenate(fed))


def test_a_large_mean_does_not_cancel() -> None:
    """Float32 numbers are 1/16 apart at 1e6; a sum of squares would have lost the variance."""
    found, fed = Moments(N_KEYS), []
    for number in range(50):
        values = 1e6 + acts(number, 4, 50, N_KEYS)
        found.update(values)
        fed.append(values.flatten(0, 1).double().numpy())
    check(found.compute(), np.concatenate(fed))
    assert (found.compute().variance - 1).abs().max() < 0.05


def test_order_and_merges() -> None:
    """Exact where exactness is promised, to the last bits elsewhere."""
    batches = [acts(number, 3, 4, N_KEYS) * 5 for number in range(9)]
    whole = Moments(N_KEYS, bins=9, range=(-2, 2))
    for batch in batches:
        whole.update(batch)
    expected = whole.compute()
    for seed in range(10):
        source = random.Random(seed)
        parts = [Moments(N_KEYS, bins=9, range=(-2, 2)) for _ in range(4)]
        for batch in source.sample(batches, len(batches)):
            source.choice(parts).update(batch)
        while len(parts) > 1:
            source.shuffle(parts)
            parts[0].merge(parts.pop())
        found = parts[0].compute()
        for name in EXACT:
            assert torch.equal(getattr(found, name), getattr(expected, name))
        assert torch.allclose(found.mean, expected.mean, rtol=1e-13, atol=1e-15)
        assert torch.allclose(found.variance, expected.variance, rtol=1e-13)


def test_an_empty_reducer_changes_no_bit() -> None:
    """So that a partial result for each segment can be joined in segment order."""
    fed = Moments(N_KEYS, bins=3, range=(0, 1))
    fed.update(acts(0, 3, 7, N_KEYS) * 1e5)
    before = fed.state_dict()
    fed.merge(Moments(N_KEYS, bins=3, range=(0, 1)))
    into = Moments(N_KEYS, bins=3, range=(0, 1))
    into.merge(fed)
    for state in (fed.state_dict(), into.state_dict()):
        assert all(torch.equal(state[name], before[name]) for name in before)


def test_state_dict_continues_with_the_same_bits() -> None:
    how: dict[str, Any] = {"bins": 4, "range": (-1, 1), "skip_first": 1}
    whole, first, second = (Moments(N_KEYS, **how) for _ in range(3))
    for number in range(4):
        whole.update(acts(number, 3, 5, N_KEYS))
        if number < 2:
            first.update(acts(number, 3, 5, N_KEYS))
    state = first.state_dict()
    first.update(acts(9, 3, 5, N_KEYS))  # the saved state is a copy
    second.load_state_dict(state)
    for number in range(2, 4):
        second.update(acts(number, 3, 5, N_KEYS))
    mine, theirs = second.state_dict(), whole.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(tensor.device.type == "cpu" for tensor in mine.values())


def test_the_engines_side() -> None:
    """Batches of some keys at a time, taken back and folded again."""
    values = acts(0, 3, 4, N_KEYS)
    ids = torch.arange(12).view(3, 4)
    ids[1, 2:] = -1
    rows = ops.Rows(ids)
    expected, found = Moments(N_KEYS, bins=4, range=(-1, 1)), Moments(N_KEYS, bins=4, range=(-1, 1))
    expected.update(values, mask=ids >= 0)
    for repeat in range(2):
        before = found.snapshot()
        for first, last in ((0, 2), (2, N_KEYS)):
            captured = ops.ffn_capture(values[:, :, first:last], rows, act="identity")
            found.fold(captured, rows, first_key=first, seen=0, careful=False)
        found.flush()
        assert not found.take_overflow()
        if repeat == 0:
            assert (found.compute().count == 10).all()
            found.restore(before)
    mine, theirs = found.state_dict(), expected.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    with pytest.raises(PyengineError, match=r"keys \[4, 9\) must lie in \[0, 5\)"):
        found.fold(ops.Captured(values, values, values, values), rows, first_key=4)


def test_gradients_and_inference_mode_do_not_matter() -> None:
    found, expected = Moments(N_KEYS), Moments(N_KEYS)
    values = acts(0, 3, 4, N_KEYS)
    found.update(values.clone().requires_grad_())
    with torch.inference_mode():
        found.update(values * 1)
    found.update(values)
    for _ in range(3):
        expected.update(values)
    assert torch.equal(found.compute().variance, expected.compute().variance)
    assert not found.compute().mean.requires_grad


def test_infinite_and_missing_activations() -> None:
    inf, nan = math.inf, math.nan
    columns = [
        [inf, 1.0, 2.0],
        [-inf, 1.0, 2.0],
        [inf, -inf, 0.0],
        [nan, nan, nan],
        [nan, 4.0, nan],
    ]
    values = torch.tensor(columns).t()
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        found = Moments(5, bins=2, range=(0, 2))
        for row in values[order]:
            found.update(row.view(1, 1, 5))
        result = found.compute()
        assert result.count.tolist() == [3, 3, 3, 0, 1]
        assert result.n_nan.tolist() == [0, 0, 0, 3, 2]
        assert result.mean[:2].tolist() == [inf, -inf] and result.mean[4] == 4
        assert result.mean[2:4].isnan().all() and result.variance[:4].isnan().all()
        assert result.variance[4] == 0 and result.sample_variance.isnan().all()
        assert result.min[:3].tolist() == [1, -inf, -inf] and result.min[3].isnan()
        assert result.max[:3].tolist() == [inf, 2, inf] and result.max[3].isnan()
        assert result.histogram is not None
        assert result.histogram.tolist() == [
            [0, 0, 1, 2],  # the end of the range is outside it
            [1, 0, 1, 1],
            [1, 1, 0, 1],
            [0, 0, 0, 0],
            [0, 0, 0, 1],
        ]


def test_nothing_at_all() -> None:
    result = Moments(3).compute()
    assert result.count.tolist() == [0, 0, 0] and result.histogram is result.edges is None
    assert torch.stack([result.mean, result.variance, result.min.double()]).isnan().all()
    for shape in ((0, 4, 3), (2, 0, 3)):
        found = Moments(3)
        found.update(torch.zeros(shape))
        assert found.compute().count.sum() == 0
    empty = Moments(0, bins=2, range=(0, 1))
    empty.update(torch.zeros(2, 3, 0))
    assert empty.compute().histogram is not None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"bins": 3}, "needs both bins and range"),
        ({"range": (0, 1)}, "needs both bins and range"),
        ({"bins": 0, "range": (0, 1)}, "bins must be a whole number from 1 to 65536, got 0"),
        ({"bins": 3, "range": (1, 1)}, r"range must be two numbers \(low, high\)"),
        ({"bins": 3, "range": (0, math.inf)}, "range must be two numbers"),
        ({"bins": 99, "range": (1e6, 1e6 + 1)}, "do not fit float32"),
        ({"bins": 2, "range": (-3e38, 3e38)}, "do not fit float32"),
        ({"bins": 2, "range": (0, 1e-40)}, "do not fit float32"),
        ({"skip_first": 1.5}, "skip_first must be"),
    ],
)
def test_bad_settings(how: dict[str, Any], message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        Moments(3, **how)


def test_other_settings_are_not_merged_or_loaded() -> None:
    mine = Moments(3, bins=2, range=(0, 1))
    for other, name in (
        (Moments(3, bins=2, range=(0, 2)), "range"),
        (Moments(4, bins=2, range=(0, 1)), "n_keys"),
        (Moments(3, bins=2, range=(0, 1), exclude=[1]), "exclude"),
    ):
        with pytest.raises(PyengineError, match=f"merge reducers with different settings: {name}="):
            mine.merge(other)
        with pytest.raises(PyengineError, match=f"load a state with different settings: {name}="):
            mine.load_state_dict(other.state_dict())
    state = mine.state_dict()
    with pytest.raises(PyengineError, match=r"state 'mean' must be float64 \[3\]"):
        mine.load_state_dict(state | {"mean": state["min"]})

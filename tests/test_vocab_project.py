"""The projection onto the vocabulary, on the CPU, against the oracle."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vocab_checks import Case, check, near, same

from pyengine import ops, torch_vocab
from pyengine._native import summarize_rows

HALF = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, torch.float64, *HALF)
LOOPS = (torch.float32, torch.float64)  # what the compiled loops read
WEIGHT_BYTES = torch_vocab.WEIGHT_BYTES  # the real ones; the tests have tiny blocks
block_rows = torch_vocab.block_rows


@st.composite
def cases(draw: st.DrawFn) -> Case:
    vocab = draw(st.sampled_from([1, 2, 63, 64, 65, 131, 700]))
    return Case(
        seed=draw(st.integers(0, 99)),
        n_rows=draw(st.integers(0, 9)),
        vocab=vocab,
        d=draw(st.sampled_from([1, 3, 8])),
        n_targets=draw(st.integers(0, 5)),
        m=draw(st.sampled_from([1, 2, min(3, vocab), min(10, vocab), vocab])) if vocab > 1 else 1,
        x_dtype=draw(st.sampled_from(FLOATS)),
        weight_dtype=draw(st.sampled_from(FLOATS)),
        bias=draw(st.booleans()),
        wild=draw(st.booleans()),
        strided=draw(st.booleans()),
    )


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    """Cut into several blocks, slices and parts of a weight what one would hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_vocab, "block_rows", lambda *_: 4)
        patch.setattr(torch_vocab, "WEIGHT_BYTES", {"cpu": 64})
        yield


@given(cases())
def test_integer_logits_give_exactly_the_oracles_answer(case: Case) -> None:
    check(case)


@given(cases(), st.integers(0, 99))
def test_real_logits_give_the_oracles_answer_up_to_rounding(case: Case, seed: int) -> None:
    check(Case(seed, case.n_rows, case.vocab, case.d, case.n_targets, 1, integers=False))


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("weight_dtype", FLOATS)
def test_dtypes_mix(x_dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    check(Case(3, m=5, x_dtype=x_dtype, weight_dtype=weight_dtype, integers=False, bias=True))


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("m", [1, 5, 131])
def test_the_reference_backend_is_the_oracle(
    monkeypatch: pytest.MonkeyPatch, m: int, wild: bool
) -> None:
    case = Case(1, m=m, bias=True, wild=wild)
    x, weight, bias, targets = case.build()
    fast = ops.vocab_project(x, weight, bias, targets=targets, m=m)
    monkeypatch.setenv("PYENGINE_BACKEND", "reference")
    slow = ops.vocab_project(x, weight, bias, targets=targets, m=m)
    assert all(same(a, b) for a, b in zip(fast[:2] + fast[4:], slow[:2] + slow[4:], strict=True))


def test_what_a_small_case_says() -> None:
    weight = torch.tensor([[0.0], [2.0], [-1.0], [2.0], [-1.0]])
    found = ops.vocab_project(
        torch.tensor([[1.0], [-1.0], [0.0]]), weight, targets=torch.tensor([[3, -1]] * 3), m=2
    )
    assert found.top_ids.tolist() == [[1, 3], [2, 4], [0, 1]]
    assert found.bottom_ids.tolist() == [2, 1, 0]
    assert found.target_ranks.tolist() == [[1, -1], [4, -1], [3, -1]]
    total = 1 + 2 * math.exp(2) + 2 * math.exp(-1)
    probs = [math.exp(2) / total] * 2
    assert torch.allclose(found.top_probs[0], torch.tensor(probs))
    assert torch.allclose(found.target_probs[0, 0], torch.tensor(probs[0]))
    assert found.target_probs[:, 1].isnan().all()
    assert torch.allclose(found.entropy[2], torch.tensor(5.0).log())


def test_a_certain_answer_has_no_entropy_and_a_row_without_maximum_none_that_is_known() -> None:
    weight = torch.tensor([[1.0], [0.0], [0.0]])
    bias = torch.tensor([0.0, -math.inf, -math.inf])
    found = ops.vocab_project(torch.tensor([[3.0], [-math.inf], [1e30]]), weight[:1], bias[:1])
    assert found.entropy[[0, 2]].tolist() == [0, 0] and found.entropy[1].isnan()
    found = ops.vocab_project(torch.tensor([[3.0], [1e4]]), weight, bias)
    assert found.entropy.tolist() == [0, 0] and found.lse.tolist() == [3, 1e4]


def test_thread_counts_do_not_matter() -> None:
    case = Case(2, n_rows=40, vocab=700, n_targets=9, m=10, bias=True)
    x, weight, bias, targets = case.build()
    one = ops.vocab_project(x, weight, bias, targets=targets, m=10)
    torch.set_num_threads(2)
    try:
        two = ops.vocab_project(x, weight, bias, targets=targets, m=10)
    finally:
        torch.set_num_threads(1)
    assert all(same(a, b) for a, b in zip(one[:2] + one[4:], two[:2] + two[4:], strict=True))


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("vocab", [1, 5_000, 30_522, 50_257, 250_112, 100_000_000])
def test_a_block_of_logits_fits_its_budget(vocab: int, itemsize: int) -> None:
    for device, budget in (("cpu", 60e6 if vocab < 60_000 else 260e6), ("cuda", 500e6)):
        rows = block_rows(vocab, itemsize, device)
        assert rows >= 1
        assert rows == 1 or rows * vocab * itemsize <= budget
        assert rows == 1 or rows >= 512 // itemsize or (rows + 1) * vocab * itemsize > 256 << 20


def test_the_budgets_add_up() -> None:
    assert 60e6 + WEIGHT_BYTES["cpu"] < 80e6
    assert 500e6 + WEIGHT_BYTES["cuda"] + 3 * torch_vocab.SLICE_BYTES < 1e9


@given(cases())
def test_the_ways_of_other_devices_agree_with_the_compiled_loops(case: Case) -> None:
    x, weight, _, targets = case.build()
    z = (x.double() @ weight.double().t()).to(case.x_dtype if case.x_dtype in LOOPS else LOOPS[0])
    ours = torch_vocab.summarize(z, targets)
    theirs = torch_vocab.summarize_in_torch(z, targets)
    good = ~theirs.s.isnan()
    assert torch.equal(good, ~ours.s.isnan())
    for name in ("maxima", "minima", "highest"):
        assert torch.equal(getattr(ours, name)[good], getattr(theirs, name)[good])
    assert near(ours.s[good], theirs.s[good], 1e-6) and near(ours.u[good], theirs.u[good], 1e-6)
    known = (targets >= 0) & good[:, None]
    assert torch.equal(ours.ranks[known], theirs.ranks[known])


def test_bad_arguments_are_refused() -> None:
    x, weight = torch.zeros(2, 3), torch.zeros(5, 3)
    targets = torch.zeros(2, 1, dtype=torch.int64)
    wrong: list[tuple[tuple, dict, str]] = [
        ((x[0], weight), {}, r"must be \[R, d\] and \[V, d\], got \(3,\) and \(5, 3\)"),
        ((x, weight[:, :2]), {}, r"must be \[R, d\] and \[V, d\]"),
        ((x.int(), weight), {}, "x must be floating-point, got torch.int32"),
        ((x, weight, torch.zeros(4)), {}, r"bias must be \[5\], got \(4,\)"),
        ((x, weight), {"targets": targets[:1]}, r"targets must be int64 \[2, n\]"),
        ((x, weight), {"targets": targets.int()}, "targets must be int64"),
        ((x, weight), {"targets": targets + 5}, "target 5 is out of range"),
        ((x, weight), {"targets": targets - 2}, "target -2 is out of range"),
        ((x, weight), {"m": 6}, "m must be from 1 to 5, got 6"),
        ((x, weight), {"m": 0}, "m must be from 1 to 5, got 0"),
        ((x, weight.to("meta")), {}, "weight must be on cpu as x is, got meta"),
    ]
    for arguments, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            ops.vocab_project(*arguments, **options)


@given(st.integers(0, 99), st.sampled_from([1, 4095, 4096, 4097, 9000]), st.booleans())
def test_the_compiled_ranks_are_a_count(seed: int, n_tokens: int, double: bool) -> None:
    rng = np.random.default_rng(seed)
    logits: np.ndarray = rng.integers(-3, 4, (3, n_tokens)).astype(np.float64)
    if not double:
        logits = logits.astype(np.float32)
    logits[rng.random(logits.shape) < 0.1] = -0.0
    logits[rng.random(logits.shape) < 0.1] = rng.choice([-np.inf, np.inf])
    targets = rng.integers(-1, n_tokens, (3, 11))
    targets[:, 4:6] = targets[:, :2]
    ids = np.arange(n_tokens)
    for threads in (0, 1, 2, 7):
        ranks = summarize_rows(logits, targets, threads)[-1]
        assert ranks.dtype == np.int64 and ranks.shape == (3, 11)
        for row, slot in np.ndindex(3, 11):
            z, token = logits[row], targets[row, slot]
            before = np.sum((z > z[token]) | ((z == z[token]) & (ids < token)))
            assert ranks[row, slot] == (-1 if token == -1 else before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_compiled_sums_are_exact_to_rounding(dtype: type, scale: float) -> None:
    logits = np.random.default_rng(0).standard_normal((3, 5003)).astype(dtype) * dtype(scale)
    no_targets = np.zeros((3, 0), np.int64)
    *_, s, u, _ = summarize_rows(logits, no_targets)
    d = logits.astype(np.float64) - logits.max(1, keepdims=True)
    tolerance = 3e-7 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(s, np.exp(d).sum(1), tolerance)
    np.testing.assert_allclose(u, (np.exp(d) * d).sum(1), tolerance)


def test_the_compiled_loops_refuse_what_they_cannot_read() -> None:
    logits, targets = np.zeros((2, 3), np.float32), np.zeros((2, 1), np.int64)
    for bad in (3, -2, 2**62):
        with pytest.raises(ValueError, match=rf"row 1, slot 0: target {bad} is outside \[-1, 3\)"):
            summarize_rows(logits, np.array([[0], [bad]]), 2)
    with pytest.raises(ValueError, match=r"have shape \(1, 1\), logits \(2, 3\)"):
        summarize_rows(logits, targets[:1])
    with pytest.raises(ValueError, match="logits must be a 2-D float32 array, not float16"):
        summarize_rows(logits.astype(np.float16), targets)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets must be a 2-D int64 array, not int32"):
        summarize_rows(logits, targets.astype(np.int32))
    with pytest.raises(ValueError, match="n_threads is -1"):
        summarize_rows(logits, targets, -1)
    with pytest.raises(ValueError, match=r"have shape \(2, 0\), no tokens"):
        summarize_rows(logits[:, :0], targets)
    assert summarize_rows(logits[:0], targets[:0])[-1].shape == (0, 1)
    assert summarize_rows(logits, targets[:, :0])[-1].shape == (2, 0)
    assert summarize_rows(logits.T[::2].T, targets)[-1].tolist() == [[0], [0]]  # copied

"""The projection onto the vocabulary on a real device, both ways, against the oracle."""

import itertools

import pytest
import torch
from vocab_checks import Case, check, same

from pyengine import ops
from pyengine.errors import PyengineError

pytestmark = pytest.mark.gpu
HALF = (torch.float16, torch.bfloat16)
PAIRS = [
    (torch.float32, torch.float32),
    *itertools.product(HALF, repeat=2),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.float32),
]


@pytest.fixture(params=["triton", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PYENGINE_BACKEND", request.param)
    return request.param


@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_integer_logits_are_exact(
    seed: int, dtypes: tuple[torch.dtype, torch.dtype], backend: str
) -> None:
    case = Case(
        seed,
        n_rows=[1, 70, 200][seed % 3],
        vocab=[97, 1000, 5003][seed % 3],
        d=[1, 33, 768][seed % 3],
        n_targets=[0, 1, 4, 50][seed % 4],
        m=[1, 5, 10, 97][seed // 2],
        x_dtype=dtypes[0],
        weight_dtype=dtypes[1],
        bias=seed % 2 == 0,
        wild=seed % 4 == 3,
        strided=seed in (2, 5),
        device="cuda",
    )
    check(case)


def test_real_logits_agree_with_the_oracle(backend: str) -> None:
    # Sums of 64 products, as large as they are in models: rounding stays far below 1e-4.
    check(Case(1, 300, 5003, 64, 9, 10, integers=False, bias=True, device="cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_real_sizes(dtype: torch.dtype, backend: str) -> None:
    """GPT-2's vocabulary: both passes see the same bits, whatever the chunk, and memory is kept."""
    draw = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(6000, 768, device="cuda", generator=draw).to(dtype)
    weight = torch.randn(50_257, 768, device="cuda", generator=draw).to(dtype) / 8
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = ops.vocab_project(x, weight, m=10)
    assert torch.cuda.max_memory_allocated() - before < 1e9
    again = ops.vocab_project(x, weight, targets=found.top_ids, m=10)
    order = torch.arange(10, device="cuda").expand(6000, -1)
    assert same(again.target_ranks, order)
    assert same(again.target_logits, found.top_logits)
    assert all(same(a, b) for a, b in zip(found[:4], again[:4], strict=True))
    if backend == "triton":  # the bits of a row depend on the row alone
        few = ops.vocab_project(x[2000:2100], weight, m=10)
        assert all(same(a, b[2000:2100]) for a, b in zip(few[:4], found[:4], strict=True))


def test_float64_needs_the_torch_path(backend: str) -> None:
    case = Case(0, m=3, x_dtype=torch.float64, integers=False, device="cuda")
    if backend == "torch":
        check(case)
        return
    with pytest.raises(PyengineError, match="set PYENGINE_BACKEND=torch"):
        check(case)

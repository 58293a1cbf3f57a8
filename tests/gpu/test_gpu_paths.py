"""Points on paths and sums of gradients on a real device, both ways, against the oracle."""

import pytest
import torch
from path_checks import LAYOUTS, Case, check_points, check_sums, same_bits

from pyengine import ops
from pyengine.errors import PyengineError

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=["triton", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PYENGINE_BACKEND", request.param)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_paths_are_the_oracles(seed: int, dtype: torch.dtype, backend: str) -> None:
    case = Case(
        seed,
        n_sources=[1, 5, 70][seed % 3],
        n_rows=[1, 33, 200, 0][seed % 4],
        d=[1, 131, 768, 3072][seed // 2],
        dtype=dtype,
        scalars=[torch.float32, torch.float64][seed % 2],
        layout=LAYOUTS[seed % 4],
        exact=seed % 3 != 2,
        wild=seed % 4 > 1,
        device="cuda",
    )
    check_points(case)
    check_sums(case, alone=backend == "triton")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_real_sizes(dtype: torch.dtype, backend: str) -> None:
    """20 nodes for 12 layers of 40 prompts: close to the CPU, and the same bits every time."""
    draw = torch.Generator("cuda").manual_seed(0)
    base, step = torch.randn(2, 480, 3072, device="cuda", generator=draw).to(dtype)
    source = torch.arange(480, device="cuda").repeat_interleave(20)
    alpha = torch.rand(len(source), device="cuda", generator=draw)
    points = ops.path_points(base, step, source, alpha)
    sums = ops.path_sums(points, source, alpha, 480)
    assert all(same_bits(sums, ops.path_sums(points, source, alpha, 480)) for _ in range(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYENGINE_BACKEND", "torch")
        host = ops.path_points(base.cpu(), step.cpu(), source.cpu(), alpha.cpu())
        host_sums = ops.path_sums(points.cpu(), source.cpu(), alpha.cpu(), 480)
    torch.testing.assert_close(points.cpu(), host)
    torch.testing.assert_close(sums.cpu(), host_sums, rtol=1e-4, atol=1e-4)


def test_float64_needs_the_torch_path(backend: str) -> None:
    case = Case(dtype=torch.float64, exact=False, device="cuda")
    for check in (check_points, lambda case: check_sums(case, alone=False)):
        if backend == "torch":
            check(case)
            continue
        with pytest.raises(PyengineError, match="set PYENGINE_BACKEND=torch"):
            check(case)

"""The reducers need only torch: they also run where transformers is another version, or missing."""

import subprocess
import sys

import pytest
import torch
from patience import PATIENCE

from pyengine import Moments, StreamingTopK

# Everything that pyengine depends on besides torch and what torch itself may import.
ABSENT = (
    "datasets",
    "matplotlib",
    "pyarrow",
    "rich",
    "safetensors",
    "sentencex",
    "tokenizers",
    "transformers",
    "typer",
    "zstandard",
)
BLOCK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")

sys.meta_path.insert(0, Absent())
"""
USE = """
import torch
from pyengine.reducers.moments import Moments
from pyengine.reducers.topk import StreamingTopK
import pyengine

assert pyengine.StreamingTopK is StreamingTopK and pyengine.Moments is Moments
acts, tokens = torch.arange(24.0).view(2, 3, 4), torch.arange(6).view(2, 3)
for per in ("unit", "token", "prefix"):
    topk = StreamingTopK(2, 4, per=per, sign="both", skip_first=1, exclude=[2])
    topk.update(acts, torch.tensor([0, 1]), torch.ones(2, 3), tokens)
    again = StreamingTopK(2, 4, per=per, sign="both", skip_first=1, exclude=[2])
    again.load_state_dict(topk.state_dict())
    again.merge(topk)
    assert again.compute("max").positions[:, 0].tolist() == [2] * 4
    assert again.compute("min").units[:, 0].tolist() == [0] * 4
moments = Moments(4, bins=3, range=(0, 24))
moments.update(acts)
moments.merge(Moments(4, bins=3, range=(0, 24)))
assert moments.compute().mean.tolist() == [10, 11, 12, 13]
assert moments.compute().histogram[0].tolist() == [0, 2, 2, 2, 0]
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_only_torch_is_needed() -> None:
    done = run(BLOCK + USE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["transformers", "pyarrow", "tokenizers"])
def test_the_block_does_block(name: str) -> None:
    done = run(BLOCK + f"import {name}")
    assert done.returncode == 1
    assert f"No module named '{name}'" in done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("per", ["unit", "token", "prefix"])
def test_cuda_finds_the_same_and_merges_with_the_cpu(per: str) -> None:
    tokens = torch.randint(0, 3, (4, 40, 50), generator=torch.Generator().manual_seed(0))
    acts = torch.randn(4, 40, 50, 70, generator=torch.Generator().manual_seed(1))
    acts[0, 3, 4, 5] = float("nan")
    mask = torch.arange(50) < torch.arange(10, 50)[:, None]

    def fed(batches: range, device: str) -> tuple[StreamingTopK, Moments]:
        topk = StreamingTopK(9, 70, per=per, sign="both", skip_first=1, exclude=[2], device=device)
        moments = Moments(70, bins=20, range=(-2, 2), skip_first=1, exclude=[2], device=device)
        for number in batches:
            units = torch.arange(40) + 40 * number
            batch = acts[number].to(device), units, mask, tokens[number]
            topk.update(*batch)
            moments.update(*batch)
        return topk, moments

    expected = fed(range(4), "cpu")
    for first, second in (("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")):
        left, right = fed(range(2), first), fed(range(2, 4), second)
        left[0].merge(right[0])
        left[1].merge(right[1])
        for side in range(2):
            found, wanted = left[side].state_dict(), expected[side].state_dict()
            for name in wanted.keys() - {"mean", "squares"}:
                assert torch.equal(found[name], wanted[name]), name
        mean, variance = (getattr(left[1].compute(), name) for name in ("mean", "variance"))
        assert torch.allclose(mean, expected[1].compute().mean, rtol=1e-12, atol=1e-14)
        assert torch.allclose(variance, expected[1].compute().variance, rtol=1e-12)

"""What a device can do in a second: what it sustains where that is known, else measured."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from pyengine.loading import DTYPES
from pyengine.precision import precision


class Peak(NamedTuple):
    """What a device can do in a second.

    Attributes:
        flops: floating-point operations of matrix products.
        bytes: read and written.
        source: where the figures come from.
    """

    flops: float
    bytes: float
    source: str

    def best(self, other: "Peak") -> "Peak":
        """Return the higher figures of two measurements: whatever disturbs them lowers them."""
        return Peak(max(self.flops, other.flops), max(self.bytes, other.bytes), self.source)


# By the name that CUDA gives: FLOP/s by dtype, and bytes/s. What an SXM board is taken to
# sustain: NVIDIA publishes 989, 495 and 67 TFLOP/s, and 3.35 TB/s.
H100 = {"float32": 60e12, "tf32": 400e12, "bfloat16": 800e12, "float16": 800e12}
SUSTAINED = {"NVIDIA H100 80GB HBM3": (H100, 3.0e12)}

# Sizes of what is measured elsewhere: sides of a square product, numbers of a copy.
MATRIX = {"cpu": 2048, "cuda": 8192}
COPY = {"cpu": 1 << 25, "cuda": 1 << 28}
ROUNDS = 3


def sustained_peak(device: torch.device, dtype: str) -> Peak | None:
    """Return what a device is known to sustain; None for others: `measured_peak` measures them."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if name not in SUSTAINED:
        return None
    flops, n_bytes = SUSTAINED[name]
    return Peak(flops[dtype], n_bytes, f"sustained by {name}") if dtype in flops else None


def measured_peak(device: torch.device, dtype: str) -> Peak:
    """Measure a large matrix product and a large copy, the best of a few; takes a second."""
    n = MATRIX[device.type]
    a = torch.randn(n, n, device=device).to(DTYPES[dtype])
    source = torch.zeros(COPY[device.type], device=device)
    target = torch.empty_like(source)
    with precision(dtype):
        product = _fastest(lambda: a @ a, device)
    copy = _fastest(lambda: target.copy_(source), device)
    return Peak(2 * n**3 / product, 2 * source.nbytes / copy, "product and copy measured here")


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(1 + ROUNDS):  # the first one warms up
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])

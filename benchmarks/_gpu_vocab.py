"""Vectors projected onto the vocabulary: the fused kernels and blocks of logits, against the FLOPs.

The shape of one key-value agreement of GPT-2 small: 36,864 vectors, 50,257 tokens, 768 dimensions.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from benchmarks._gpu_common import Found, Job, Line, Scale, timed, verdict
from pyengine import ops

VOCAB, DIMENSIONS, TOP, TARGETS = 50_257, 768, 10, (1, 50)
PEAK = {"float32": 60e12, "bfloat16": 800e12}  # FLOP/s of an H100
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WAYS = {"fused": "triton", "blocks of logits": "torch"}
SECONDS = {"fused": 0.150, "blocks of logits": 0.080}  # float32
LIMIT_BYTES = 1e9  # above inputs and results
MAX_ROUNDS = 5


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield a measurement per way, precision and number of targets."""
    for dtype in DTYPES:
        for n_targets in TARGETS:
            for way in WAYS:
                name = f"vocab_project {way}, {dtype}, {n_targets} targets"
                yield name, partial(project, name, way, dtype, n_targets, scale)


def project(name: str, way: str, dtype: str, n_targets: int, scale: Scale) -> Found:
    """Time a projection with ranks of targets and the best ten tokens; on the CPU both are one."""
    device = torch.device(scale.device)
    n_rows = scale.n_layers * scale.widths[0]
    vocab, d = (131, 8) if scale.tiny else (VOCAB, DIMENSIONS)
    x = torch.randn(n_rows, d, device=device).to(DTYPES[dtype])
    weight = torch.randn(vocab, d, device=device).to(DTYPES[dtype]) / 8
    targets = torch.randint(vocab, (n_rows, n_targets), device=device)
    run = partial(ops.vocab_project, x, weight, targets=targets, m=TOP)
    with _backend(WAYS[way] if device.type == "cuda" else "torch"):
        n_bytes = _memory(run, device)
        seconds = timed(run, device, min(scale.rounds, MAX_ROUNDS)).device_s

    flops = 2 * n_rows * vocab * d
    floor = flops / PEAK[dtype]
    target = judged = ""
    if dtype == "float32":
        target, judged = f"{SECONDS[way] * 1e3:.0f} ms", verdict(seconds <= SECONDS[way])
    measured = f"{seconds * 1e3:.1f} ms, {flops / seconds / 1e12:.1f} TFLOP/s"
    lines = [Line(name, measured, f"{floor * 1e3:.1f} ms", target, judged)]
    if n_bytes is not None:
        good = verdict(n_bytes <= LIMIT_BYTES)
        lines.append(Line("  memory", f"{n_bytes / 1e6:.0f} MB", "", "1000 MB", good))
    return lines, {"s": seconds, "floor_s": floor, "flops": flops, "bytes": n_bytes}


def _memory(run: partial[ops.Projection], device: torch.device) -> int | None:
    """Return the most bytes held at once beside inputs and results; None on the CPU."""
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = run()
    peak = torch.cuda.max_memory_allocated(device)
    return peak - before - sum(tensor.nbytes for tensor in result)


@contextmanager
def _backend(name: str) -> Iterator[None]:
    before = os.environ.get("PYENGINE_BACKEND")
    os.environ["PYENGINE_BACKEND"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYENGINE_BACKEND"]
        else:
            os.environ["PYENGINE_BACKEND"] = before

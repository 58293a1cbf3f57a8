"""Attribution of many prompts at once, extrapolated to ParaRel, against the FLOP of the exact rule.

Random ids, in lengths like ParaRel's. Random weights answer almost linearly: `adaptive` stops at
its fewest nodes, and its time is the least that it can be.
"""

import gc
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

import pyengine
from benchmarks._attribution_common import prompt_lengths
from benchmarks._attribution_speed import FLOOR_GFLOP
from benchmarks._gpu_common import Found, Job, Line, Scale, synchronize
from benchmarks._gpu_search import build, matmul_rate
from benchmarks._values_common import duration
from pyengine.analyses.attribution import Attribution, attribute
from pyengine.analyses.attribution_settings import AttributionSettings
from pyengine.cloze import Cloze

# Prompts of ParaRel; of GPT-2's those that end in the object, punctuation aside.
PARAREL = {"bert": 224_674, "gpt2": 144_325}
PRECISIONS = ("float32", "tf32", "bfloat16")
METHODS = ("package", "adaptive")
PROMPTS, TINY_PROMPTS = 1024, 5
STEPS = 20


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield a measurement per family, precision and method."""
    rates: dict[str, float] = {}
    for family in (family for family in PARAREL if family in scale.families):
        for dtype in (dtype for dtype, _ in scale.tokens if dtype in PRECISIONS):
            for method in METHODS:
                name = f"{family} {dtype}, {method}"
                yield name, partial(pararel, name, family, dtype, method, scale, rates)


def pararel(
    name: str, family: str, dtype: str, method: str, scale: Scale, rates: dict[str, float]
) -> Found:
    """Time a batch; `rates` remembers the measured matrix product of each precision.

    The floor is of the exact rule: 20 nodes, 12 tokens, at the rate of that product.
    """
    gc.collect()  # the model before is part of cycles
    model = build(family, dtype, scale.device, scale.tiny)
    items = questions(model, TINY_PROMPTS if scale.tiny else PROMPTS)
    cuda = model.device.type == "cuda"
    if dtype not in rates:
        rates[dtype] = matmul_rate(dtype, scale)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = partial(attribute, model, items, AttributionSettings(method=method, steps=STEPS))
    found = run()
    seconds = statistics.median(_seconds(run, model.device) for _ in range(scale.search_rounds))
    each, n = seconds / len(items), PARAREL[family]
    figures: dict[str, Any] = {
        "prompts": len(items),
        "tokens_per_prompt": sum(len(cloze.input_ids) for (cloze,) in items) / len(items),
        "s_per_prompt": each,
        "pararel_s": each * n,
        "floor_s": FLOOR_GFLOP[family] * 1e9 * n / rates[dtype],
        "matmul_flop_per_s": rates[dtype],
        "nodes": found.nodes.double().mean().item(),
        "converged": found.converged.double().mean().item(),
        "exact": found.exact,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }
    floor = duration(figures["floor_s"]) if method == "package" else ""
    took = f"{duration(figures['pararel_s'])} for {n:,} prompts, {each * 1e3:.2f} ms each"
    path = f"{figures['nodes']:.1f} nodes, {figures['converged']:.1%} converged"
    lines = [Line(name, took, floor), Line("  a layer", path)]
    if cuda:
        lines.append(Line("  memory", f"{figures['peak_bytes'] / 2**30:.1f} GiB"))
    return lines, figures


def questions(model: pyengine.Model, n: int) -> list[list[Cloze]]:
    """Draw prompts with the answer at the end of a causal model's, else in the middle."""
    rng = np.random.default_rng(0)
    found = []
    for length in prompt_lengths(n).tolist():
        ids = rng.integers(model.vocab_size, size=length).tolist()
        position = length - 1 if model.family.causal else length // 2
        found.append([Cloze(tuple(ids), position, int(rng.integers(model.vocab_size)))])
    return found


def _seconds(run: partial[Attribution], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()  # its results are on the CPU
    return time.perf_counter() - start

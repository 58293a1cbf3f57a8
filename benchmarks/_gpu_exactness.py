"""Exactness on the device: the same bits from run to run, and the band around the CPU's answer."""

from collections.abc import Iterator
from functools import cache, partial

import numpy as np

import pyengine
from benchmarks._gpu_common import Found, Job, Line, Scale
from benchmarks._gpu_search import build, corpus
from pyengine.analyses.compare import compare
from pyengine.analyses.trigger_result import TriggerExamples

K = 10
SETTINGS = {"batch_tokens": 4096, "block_tokens": 131_072}  # the same shapes on both devices
# Largest `band`, some ten times the rounding of the precision: it adds up over the layers.
BANDS = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 1e-1}


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield a comparison per family and precision."""
    store = corpus(scale.sample_tokens)

    @cache
    def on_cpu(family: str) -> TriggerExamples:
        model = build(family, "float32", "cpu", scale.tiny)
        return pyengine.trigger_examples(model, store, k=K, **SETTINGS)

    for family in scale.families:
        for dtype, _ in scale.tokens:
            name = f"exactness {family} {dtype}"

            def run(name: str = name, family: str = family, dtype: str = dtype) -> Found:
                model = build(family, dtype, scale.device, scale.tiny)
                search = partial(pyengine.trigger_examples, model, store, k=K, **SETTINGS)
                return judge(name, dtype, search(), search(), on_cpu(family))

            yield name, run


def judge(
    name: str,
    dtype: str,
    first: TriggerExamples,
    second: TriggerExamples,
    on_cpu: TriggerExamples,
) -> Found:
    """Compare two runs bit by bit, and the first with the CPU's in fp32."""
    layers = compare(first, on_cpu)
    overlap, changed = min(a.overlap for a in layers), max(a.changed for a in layers)
    band, same = max(a.band for a in layers), same_bits(first, second)
    figures = {
        "same_bits": same,
        "band": band,
        "score_difference": max(a.score_difference for a in layers),
        "overlap": overlap,
        "changed": changed,
    }
    measured = f"band {band:.1e}, overlap >= {overlap:.4f}, changed keys <= {changed:.1%}"
    limit = BANDS[dtype]
    return [
        Line(name, measured, "", f"band {limit:.0e}", "ok" if band <= limit else "FAILED"),
        Line("  run to run", "same bits" if same else "differs", "", "same bits", _ok(same)),
    ], figures


def same_bits(a: TriggerExamples, b: TriggerExamples) -> bool:
    """Return whether two results hold the same bytes."""
    mine, theirs = a.tensors(), b.tensors()
    return mine.keys() == theirs.keys() and all(
        np.asarray(mine[name]).tobytes() == np.asarray(theirs[name]).tobytes() for name in mine
    )


def _ok(good: bool) -> str:
    return "ok" if good else "FAILED"

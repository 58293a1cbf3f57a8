"""What a pass over a corpus will take, estimated from a few seconds of it.

The analysis itself is run on samples of two sizes, cut out all over the corpus, in a temporary
directory. What both take alike is fixed (hashing, filling heaps, writing the result); the rest is
proportional to the tokens that are computed, whose number is known. The filling of heaps goes on,
ever slower, so that a long run is rather faster than estimated.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pyengine.errors import PyengineError
from pyengine.heads.extract import extract_heads
from pyengine.heads.extract_parts import SentenceParts
from pyengine.memory_plan import MemoryPlan, memory_plan
from pyengine.models import Model
from pyengine.samples import FactParts, Parts, Sample, TokenParts
from pyengine.scale.work import Report, Work
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.fit_parts import FitParts
from pyengine.store import TokenStore

# Seconds that a small sample should take; a large one is `LARGER` times as long.
SAMPLE_SECONDS, LARGER, REPEATS = 2.0, 3, 2
# The first that is tried, and by how much the next may be larger.
FIRST, GROWTH = {"tokens": 256, "facts": 4}, 8


# What is not simply read from beginning to end.
OWN_PARTS: dict[Callable[..., Any], Callable[[Work, Model], Parts]] = {
    fit_shortcuts: FitParts,
    extract_heads: SentenceParts,
}

OnSample = Callable[[str], None] | None


class Measured(NamedTuple):
    """What a sample took."""

    seconds: float
    n_bytes: int


class Range(NamedTuple):
    """An estimate, and what the repetitions give at least and at most."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a run will take, of one worker.

    Attributes:
        function: name of the analysis.
        unit: what `size` counts: `tokens` or `facts`.
        size: content tokens, or facts that can be asked.
        n_units: units of the corpus, of tasks the distinct sentences; None for facts.
        cost: computed tokens, padding and special tokens included (T5: the encoder's); or prompts.
        samples: sizes of the two samples.
        seconds: of the whole run, tokenising apart.
        rate: size per second once the run is under way.
        plan: what it will hold; None where that is not known.
        peak_device: bytes that the samples took on the device; None on the CPU.
        peak_host: the most bytes that this process ever held.
        disk: bytes of the run directory.
        notes: what else is known before the pass, by its heading.
    """

    function: str
    unit: str
    size: int
    n_units: int | None
    cost: int
    samples: tuple[int, int]
    seconds: Range
    rate: float
    plan: MemoryPlan | None
    peak_device: int | None
    peak_host: int
    disk: int
    notes: Mapping[str, str] = field(default_factory=dict)


def estimate(
    work: Work,
    model: Model,
    *,
    on_tokenized: Report | None = None,
    on_sample: OnSample = None,
) -> Estimate:
    """Estimate what a run will take, by running samples of it for about twenty seconds.

    Args:
        work: what is to be run; its corpus is tokenised, and kept in the cache for the run.
        model: loaded, where the run will be.
        on_tokenized: called with (bytes done, bytes in all).
        on_sample: called with what is being measured.

    Raises:
        PyengineError: as the analysis does.
    """
    work = work.tokenized(model, on_tokenized)
    parts = _parts(work, model)
    if not parts.size:
        raise PyengineError("the corpus is empty: there is nothing to estimate")
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    samples = _samples(parts, model, on_sample)
    rounds = [[_measured(each, model, on_sample) for each in samples] for _ in range(REPEATS)]
    lines = [_line([(s.cost, m.seconds) for s, m in zip(samples, r, strict=True)]) for r in rounds]
    seconds = sorted(fixed + slope * parts.cost for fixed, slope in lines)
    slope = statistics.median(slope for _, slope in lines)
    return Estimate(
        function=getattr(work.function, "__name__", str(work.function)),
        unit=parts.unit,
        size=parts.size,
        n_units=parts.n_units,
        cost=parts.cost,
        samples=(samples[0].size, samples[1].size),
        seconds=Range(statistics.median(seconds), seconds[0], seconds[-1]),
        rate=parts.size / parts.cost / slope,
        plan=(plan := memory_plan(work, model)),
        peak_device=torch.cuda.max_memory_allocated(model.device) if cuda else None,
        peak_host=_peak_host(),
        disk=_disk(
            plan, parts, [(s.size, m.n_bytes) for s, m in zip(samples, rounds[-1], strict=True)]
        ),
        notes=parts.notes(),
    )


def _parts(work: Work, model: Model) -> Parts:
    if work.function in OWN_PARTS:
        return OWN_PARTS[work.function](work, model)
    of_tokens = isinstance(work.corpus, TokenStore)
    return TokenParts(work, model) if of_tokens else FactParts(work, model)


def _samples(parts: Parts, model: Model, report: OnSample) -> tuple[Sample, Sample]:
    """Find two sizes that take long enough to be measured."""
    size = FIRST[parts.unit]
    _measured(parts.sample(size), model, report)  # compiles kernels, hashes the model
    while True:
        tried = parts.sample(size)
        seconds = _measured(tried, model, report).seconds
        if seconds >= SAMPLE_SECONDS / 2 or tried.size >= parts.size:
            break
        size = round(size * min(GROWTH, max(2.0, SAMPLE_SECONDS / seconds)))
    size = round(LARGER * tried.size * SAMPLE_SECONDS / seconds)
    large = parts.sample(max(FIRST[parts.unit], size))
    return parts.sample(max(1, large.size // LARGER)), large


def _measured(sample: Sample, model: Model, report: OnSample) -> Measured:
    """Run an analysis of a sample in a temporary directory."""
    if report is not None:
        report(f"measuring {sample.size:,} of the corpus")
    with tempfile.TemporaryDirectory(prefix="pyengine-estimate-") as folder:
        out = Path(folder) / "run"
        began = time.perf_counter()
        sample.work.run(model, out, 0, 1)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        seconds = time.perf_counter() - began
        files = [file.stat().st_size for file in out.rglob("*") if file.is_file()]
    return Measured(seconds, sum(files))


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return (fixed, slope) of the line through two points.

    Where either would not be above zero, all is taken as proportional to the larger.
    """
    (x, y), (larger, most) = points
    slope = (most - y) / (larger - x) if larger > x else 0.0
    fixed = y - slope * x
    return (fixed, slope) if slope > 0 and fixed >= 0 else (0.0, most / larger)


def _disk(plan: MemoryPlan | None, parts: Parts, found: Sequence[tuple[int, int]]) -> int:
    """Return the bytes of the run directory: as planned, or as the samples grow."""
    if plan is not None and plan.disk:
        return plan.disk_bytes
    fixed, slope = _line(found)
    return round(fixed + slope * parts.size)


def _peak_host() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

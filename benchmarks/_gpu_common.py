"""What the parts of the GPU benchmark share: its sizes, its lines, its clock."""

import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

# On CUDA the flushes last longer than the host needs to queue what is timed, which therefore never
# waits for the host. They write, so that the kernel pays for dirty lines as in steady state.
FLUSH_BYTES, FLUSHES = {"cpu": 1 << 16, "cuda": 1 << 30}, {"cpu": 1, "cuda": 8}
WARM_UP = 3


@dataclass(frozen=True)
class Scale:
    """How much is measured; the defaults are the full benchmark.

    Attributes:
        device: where; `cpu` is for the tests of this code.
        batch_tokens: tokens per kernel call.
        widths: d_ff per kernel call.
        rounds: repetitions of a kernel.
        families: models of the search.
        tokens: precisions of the search, and its corpus in tokens for each.
        search_rounds: repetitions of a search.
        sample_tokens: corpus of the comparison with the CPU.
        corpus: a WikiText file to search from its text; None: drawn text.
        corpus_tokens, family_tokens: of that search: of GPT-2, and of every family.
        tests: further arguments of pytest.
        tiny: models of two narrow layers, for the tests of this code.
    """

    device: str = "cuda"
    batch_tokens: tuple[int, ...] = (8192, 16384)
    widths: tuple[int, ...] = (3072, 6400)
    n_layers: int = 12
    rounds: int = 30
    families: tuple[str, ...] = ("gpt2", "bert", "gpt_neo", "t5")
    tokens: tuple[tuple[str, int], ...] = (
        ("bfloat16", 2_000_000),
        ("tf32", 2_000_000),
        ("float16", 2_000_000),
        ("float32", 300_000),
    )
    search_rounds: int = 3
    sample_tokens: int = 30_000
    corpus: Path | None = None
    corpus_tokens: int = 118_000_000
    family_tokens: int = 5_000_000
    tests: tuple[str, ...] = ()
    tiny: bool = False

    def at_most(self, n_tokens: int) -> "Scale":
        """Bound the corpora of the searches."""
        return replace(
            self,
            tokens=tuple((dtype, n_tokens) for dtype, _ in self.tokens),
            corpus_tokens=n_tokens,
            family_tokens=min(n_tokens, self.family_tokens),
        )


class Line(NamedTuple):
    """A line of the table; a verdict is `met` or `missed` (speed), `ok` or `FAILED` (the rest)."""

    what: str
    measured: str
    floor: str = ""
    target: str = ""
    verdict: str = ""


# What a job returns: lines for people, figures for the results file.
Found = tuple[list[Line], Any]
Job = tuple[str, Callable[[], Found]]


class Times(NamedTuple):
    """Median seconds of a call: on the device, and of the host to launch it."""

    device_s: float
    host_s: float


def attempt(job: Job) -> Found:
    """Run a job; if it raises, say so in a line and keep the traceback."""
    name, run = job
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        return run()
    except Exception as error:  # whatever it is, the other jobs still run
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return [Line(name, text, verdict="FAILED")], {"error": traceback.format_exc()}


def verdict(met: bool) -> str:
    """Judge a speed."""
    return "met" if met else "missed"


def timed(
    run: Callable[[], object],
    device: torch.device,
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
) -> Times:
    """Time `run` with cold caches, after `prepare`, and take medians."""
    flush = torch.empty(FLUSH_BYTES[device.type], dtype=torch.int8, device=device)
    for _ in range(WARM_UP):
        prepare()
        run()
    spans, host = [], []
    for _ in range(rounds):
        prepare()
        for _ in range(FLUSHES[device.type]):
            flush.zero_()
        start, begin = _mark(device), time.perf_counter()
        run()
        host.append(time.perf_counter() - begin)
        spans.append((start, _mark(device)))
    synchronize(device)
    return Times(statistics.median(_between(*span) for span in spans), statistics.median(host))


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mark(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: Any, stop: Any) -> float:
    return stop - start if isinstance(start, float) else start.elapsed_time(stop) / 1e3

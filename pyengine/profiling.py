"""Where the time of a search goes, beside the least that each part can take."""

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pyengine.analyses.analysis_inputs import tokenized
from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.analyses.trigger_search import Settings, trigger_search
from pyengine.analyses.triggers import trigger_examples
from pyengine.batches import Batch
from pyengine.corpus import Corpus
from pyengine.engine import BATCH_TOKENS
from pyengine.floors import BodyShape, added
from pyengine.loading import DTYPES
from pyengine.models import Model
from pyengine.peaks import Peak, measured_peak, sustained_peak
from pyengine.stopwatch import (
    ACTIVATION,
    FFN,
    FOLD,
    NORMS,
    PROJECTIONS,
    ROWS,
    SCORES,
    Stopwatch,
    timed,
)
from pyengine.store import TokenStore

# The parts of `pyengine.floors` and their rows.
FLOORS = {
    "projections": PROJECTIONS,
    "scores": SCORES,
    "ffn": FFN,
    "activation": ACTIVATION,
    "norms": NORMS,
}
CUDA_BLOCK = 32  # positions per maximum


class Row(NamedTuple):
    """A row of a profile.

    Attributes:
        name: of `pyengine.stopwatch.ROWS`.
        seconds: spent in it.
        share: of the whole.
        floor_s: the least that it can take at what the device sustains, padding included; None
            where nothing is computed that counts.
    """

    name: str
    seconds: float
    share: float
    floor_s: float | None

    @property
    def of_floor(self) -> float | None:
        """How many times its floor it took."""
        return self.seconds / self.floor_s if self.floor_s else None


class Idle(NamedTuple):
    """Time of a run in which the device did nothing; it is part of the rows, and not one of them.

    Attributes:
        seconds: on CUDA those in which neither a kernel nor a copy ran; on the CPU what is left
            after the CPU time of the process, spread over torch's threads: time in which a thread
            slept, waited for a file or for a core, or had no share of the work.
        run_s: of the run that was looked at, from text to run directory, on the clock. On the CPU
            it is that of the rows; on CUDA it goes without the stopwatch, and reads ahead.
        how: what is left of `run_s`, in a few words.
    """

    seconds: float
    run_s: float
    how: str

    @property
    def share(self) -> float:
        """Of the run that was looked at."""
        return self.seconds / self.run_s


class Profile(NamedTuple):
    """Where the time of a search went.

    Attributes:
        rows: all of `pyengine.stopwatch.ROWS`.
        seconds: of all of them.
        n_units: units.
        n_tokens: content tokens.
        n_computed: padding and special tokens included.
        peak: what the floors are computed with.
        idle: time without work for the device; None where torch's profiler sees no kernels.
        result: of the search.
    """

    rows: tuple[Row, ...]
    seconds: float
    n_units: int
    n_tokens: int
    n_computed: int
    peak: Peak
    idle: Idle | None
    result: TriggerExamples


def profile_search(model: Model, corpus: Corpus, k: int = 50) -> Profile:
    """Run a search for trigger examples from the text to a run directory, and say what took long.

    The run and its tokenised corpus are in a temporary directory, which is removed. A batch of the
    corpus, unmeasured, goes before; on CUDA the search is run again for `idle`.

    Args:
        model: of any family, on any device.
        corpus: what to read.
        k: examples per key.

    Raises:
        PyengineError: as `trigger_examples` does.
    """
    _warm_up(model, corpus, k)
    sustained = sustained_peak(model.device, model.dtype)
    peak = sustained or measured_peak(model.device, model.dtype)
    watch = Stopwatch(model.device)
    cpu_began = time.process_time()
    with timed(watch):
        result = _search(model, corpus, k)
    cpu_s = time.process_time() - cpu_began
    seconds = watch.seconds()
    total = sum(seconds.values())
    batches = [batch for batch, _ in watch.batches]
    peak = peak if sustained else peak.best(measured_peak(model.device, model.dtype))
    floors = _floors(model, watch.batches, peak)
    return Profile(
        tuple(Row(name, seconds[name], seconds[name] / total, floors.get(name)) for name in ROWS),
        total,
        sum(len(batch.units) for batch in batches),
        sum(batch.n_tokens for batch in batches),
        sum(batch.n_computed for batch in batches),
        peak,
        idle_of_cuda(lambda: _search(model, corpus, k))
        if model.device.type == "cuda"
        else idle_of_cpu(total, cpu_s, torch.get_num_threads()),
        result,
    )


def _search(model: Model, corpus: Corpus, k: int) -> TriggerExamples:
    with tempfile.TemporaryDirectory(prefix="pyengine-profile-") as folder:
        # Tokenised first: there is one clock, and nothing may go on beside.
        store = tokenized(model, corpus, cache_dir=Path(folder) / "cache")
        return trigger_examples(model, store, k, out=Path(folder) / "run")


def _warm_up(model: Model, corpus: Corpus, k: int) -> None:
    """Compute a batch, so that nothing is measured that is done only once in a process."""
    with tempfile.TemporaryDirectory(prefix="pyengine-profile-") as folder:
        store = tokenized(model, corpus, cache_dir=folder)
        n_units = int(np.searchsorted(store.offsets, BATCH_TOKENS[model.device.type]))
        offsets = store.offsets[: 1 + max(1, n_units)]
        tokens = store.tokens[: offsets[-1]]
        few = TokenStore.in_memory(tokens, offsets, store.report, store.adds_special)
        settings = Settings(k=k, layers=tuple(range(model.n_layers)))
        trigger_search(model, settings, few, (0, 1)).run()


def _floors(
    model: Model, batches: list[tuple[Batch, Batch | None]], peak: Peak
) -> dict[str, float]:
    """Return the least seconds of the rows that have such a thing, padding included."""
    shape, itemsize = BodyShape.of(model.hf), DTYPES[model.dtype].itemsize
    costs = added(
        shape.costs(
            _lengths(batch),
            None if decoder is None else _lengths(decoder),
            to_last_activation=True,
        )
        for batch, decoder in batches
    )
    found = {row: costs[part].seconds(peak, itemsize) for part, row in FLOORS.items()}
    # Every activation is looked at once; on CUDA only the maxima of blocks, which are float32.
    activations = sum(batch.n_tokens for batch, _ in batches) * model.n_layers * model.d_ff
    n_bytes = activations * (4 / CUDA_BLOCK if model.device.type == "cuda" else itemsize)
    return found | {FOLD: n_bytes / peak.bytes}


def _lengths(batch: Batch) -> np.ndarray:
    rows, longest = batch.input_ids.shape
    return np.full(rows, longest)


def idle_of_cpu(run_s: float, cpu_s: float, threads: int) -> Idle:
    """Return what a run of `run_s` seconds leaves unused of so many threads.

    More threads than torch's own may run for a while, as a tokenizer's do: their CPU time counts,
    so that it is never too much, and none at least.
    """
    how = f"the CPU time of {threads} thread{'s' if threads > 1 else ''} taken off"
    return Idle(max(0.0, run_s - cpu_s / threads), run_s, how)


def idle_of_cuda(run: Callable[[], object]) -> Idle | None:
    """Return when nothing runs on the device, of the very run that torch's profiler looks at.

    The profiler slows launches down a little, so that this is rather too much than too little.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        run_s = time.perf_counter() - began
    busy_s = covered(on_device(found.events())) / 1e6
    how = "of the search unwatched and reading ahead, kernels and copies taken off"
    return Idle(max(0.0, run_s - busy_s), run_s, how) if busy_s else None


def on_device(events: Iterable[Any]) -> list[tuple[float, float]]:
    """Return (start, end) of kernels, copies and fills, in microseconds.

    Args:
        events: of torch's profiler: also what the host did, and ranges that somebody named.
    """
    return [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, in any order; streams overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total

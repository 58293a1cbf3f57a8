"""Where the time of a search goes, beside the least that each part can take."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
from pyengine.peaks import Peak, measured_peak, published_peak
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
        floor_s: the least that it can take at the device's peak, padding included; None where
            nothing is computed that counts.
    """

    name: str
    seconds: float
    share: float
    floor_s: float | None

    @property
    def of_floor(self) -> float | None:
        """How many times its floor it took."""
        return self.seconds / self.floor_s if self.floor_s else None


class Profile(NamedTuple):
    """Where the time of a search went.

    Attributes:
        rows: all of `pyengine.stopwatch.ROWS`.
        seconds: of all of them.
        n_units: units.
        n_tokens: content tokens.
        n_computed: padding and special tokens included.
        peak: what the floors are computed with.
        busy: share of the time in which the device computed or copied; None on the CPU.
        result: of the search.
    """

    rows: tuple[Row, ...]
    seconds: float
    n_units: int
    n_tokens: int
    n_computed: int
    peak: Peak
    busy: float | None
    result: TriggerExamples


def profile_search(model: Model, corpus: Corpus, k: int = 50) -> Profile:
    """Run a search for trigger examples from the text to a run directory, and say what took long.

    The run and its tokenised corpus are in a temporary directory, which is removed. A batch of the
    corpus, unmeasured, goes before; on CUDA the search is run again for `busy`.

    Args:
        model: of any family, on any device.
        corpus: what to read.
        k: examples per key.

    Raises:
        PyengineError: as `trigger_examples` does.
    """
    _warm_up(model, corpus, k)
    published = published_peak(model.device, model.dtype)
    peak = published or measured_peak(model.device, model.dtype)
    watch = Stopwatch(model.device)
    with timed(watch):
        result = _search(model, corpus, k)
    seconds = watch.seconds()
    total = sum(seconds.values())
    batches = [batch for batch, _ in watch.batches]
    peak = peak if published else peak.best(measured_peak(model.device, model.dtype))
    floors = _floors(model, watch.batches, peak)
    return Profile(
        tuple(Row(name, seconds[name], seconds[name] / total, floors.get(name)) for name in ROWS),
        total,
        sum(len(batch.units) for batch in batches),
        sum(batch.n_tokens for batch in batches),
        sum(batch.n_computed for batch in batches),
        peak,
        _busy(lambda: _search(model, corpus, k), total) if model.device.type == "cuda" else None,
        result,
    )


def _search(model: Model, corpus: Corpus, k: int) -> TriggerExamples:
    with tempfile.TemporaryDirectory(prefix="pyengine-profile-") as folder:
        out, cache = Path(folder) / "run", Path(folder) / "cache"
        return trigger_examples(model, corpus, k, out=out, cache_dir=cache)


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


def _busy(run: Callable[[], object], seconds: float) -> float:
    """Return how much of the time kernels and copies run on the device, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        run()
        torch.cuda.synchronize()
    busy = sum(event.self_device_time_total for event in found.key_averages()) / 1e6
    return float(busy / seconds)

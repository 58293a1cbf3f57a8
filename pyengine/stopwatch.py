"""A stopwatch around the engine, that gives every moment of a search to one row of a profile.

Functions and modules are timed from here, and left alone again afterwards: without a profile the
engine knows nothing of it.
"""

import contextlib
import pkgutil
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial, wraps
from typing import Any

import torch
from torch import nn

from pyengine.batches import Batch
from pyengine.forward import Forward
from pyengine.models import Model

# In the order of the table.
ROWS = (
    TOKENISE := "tokenise",
    MANIFEST := "hash the model",
    BATCHES := "form batches",
    COPY := "copy to device",
    PROJECTIONS := "attention projections",
    SCORES := "attention scores",
    FFN := "FFN matrices",
    ACTIVATION := "activation + capture",
    NORMS := "norms, residual, embeddings",
    FOLD := "fold + rescan",
    MERGE := "merge",
    SAVE := "checkpoint + result",
    OTHER := "other",
)

# Functions, where they are looked up, and the row of their time but for what they call that has a
# row of its own.
FUNCTIONS = {
    "pyengine.profiling.tokenized": TOKENISE,
    "pyengine.analyses.triggers.describe": MANIFEST,
    "pyengine.forward.to_device": COPY,
    "pyengine.competition.to_device": COPY,
    "pyengine.ops.ffn_capture": ACTIVATION,
    "pyengine.ops._computed": ACTIVATION,  # maxima and NaN, when they are asked for
    "pyengine.ops.topk_fold": FOLD,
    "pyengine.ops.topk_flush": MERGE,
    "pyengine.extraction.feeds.Feed.snapshot": SAVE,
    "pyengine.extraction.run.save_shard": SAVE,
    "pyengine.extraction.run.Extractor.found": SAVE,
    "pyengine.analyses.triggers.TriggerExamples.write": SAVE,
}
# Batches are formed when they are asked for: nothing is read ahead beside a stopwatch.
ITERATORS = {"pyengine.engine.segments": BATCHES}


class Stopwatch:
    """Gives every moment to the row that was opened last and is still open.

    On CUDA the time is the device's, by events between the launches: where the device waits for
    the host, that counts for the row that it waits in. Other threads are not looked at.

    Attributes:
        batches: what ran through the model meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self.batches: list[tuple[Batch, Batch | None]] = []
        self._device, self._thread = device, threading.get_ident()
        self._open: list[str] = []
        self._marks: list[tuple[str | None, Any]] = []

    @contextlib.contextmanager
    def row(self, name: str) -> Iterator[None]:
        """Give the time inside to a row; what an error leaves open inside is closed."""
        depth = self.enter(name)
        try:
            yield
        finally:
            self.leave(depth)

    def enter(self, name: str) -> int:
        """Open a row; return what `leave` needs."""
        depth = len(self._open)
        if threading.get_ident() == self._thread:
            self._open.append(name)
            self._mark()
        return depth

    def leave(self, depth: int) -> None:
        """Close a row."""
        if threading.get_ident() == self._thread:
            del self._open[depth:]
            self._mark()

    def seconds(self) -> dict[str, float]:
        """Return the time of every row; waits for the device."""
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self._device)
        found = dict.fromkeys(ROWS, 0.0)
        for (name, began), (_, ended) in zip(self._marks, self._marks[1:], strict=False):
            if name is not None:
                found[name] += began.elapsed_time(ended) / 1e3 if cuda else ended - began
        return found

    def _mark(self) -> None:
        mark: Any = time.perf_counter()
        if self._device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record(torch.cuda.current_stream(self._device))
        self._marks.append((self._open[-1] if self._open else None, mark))


@contextlib.contextmanager
def timed(watch: Stopwatch) -> Iterator[None]:
    """Put a stopwatch around the engine; whatever is in no other row is in `other`."""
    run = Forward.run

    def run_timed(self: Forward, batch: Batch, decoder: Batch | None = None) -> torch.Tensor:
        watch.batches.append((batch, decoder))
        return run(self, batch, decoder)

    def forward(model: Model) -> Forward:
        made = Forward(model)
        _time_modules(watch, model, made.body)
        return made

    body_run = _function(watch, NORMS, run_timed)
    with contextlib.ExitStack() as undo:
        _replace(undo, "pyengine.capture.Forward", lambda _: forward)
        _replace(undo, "pyengine.forward.Forward.run", lambda _: body_run)
        for path, row in FUNCTIONS.items():
            _replace(undo, path, partial(_function, watch, row))
        for path, row in ITERATORS.items():
            _replace(undo, path, partial(_iterator, watch, row))
        # There is one clock: nothing may go on beside.
        _replace(undo, "pyengine.segments.SEGMENTS_AHEAD", lambda ahead: dict.fromkeys(ahead, 0))
        with watch.row(OTHER):
            yield


def _replace(undo: contextlib.ExitStack, path: str, made: Callable[[Any], Any]) -> None:
    """Put what `made` returns in the place of a function, until `undo`."""
    owner_path, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(owner_path)
    inner = getattr(owner, name)
    undo.callback(setattr, owner, name, inner)
    setattr(owner, name, made(inner))


def _function(watch: Stopwatch, row: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(inner)
    def call(*args: Any, **kwargs: Any) -> Any:
        with watch.row(row):
            return inner(*args, **kwargs)

    return call


def _iterator(watch: Stopwatch, row: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(inner)
    def call(*args: Any, **kwargs: Any) -> Generator[Any]:
        with contextlib.closing(inner(*args, **kwargs)) as items:
            end = object()
            while True:
                with watch.row(row):
                    item = next(items, end)
                if item is end:
                    return
                yield item

    return call


def _time_modules(watch: Stopwatch, model: Model, body: nn.Module) -> None:
    """Time matrices, and attentions as a whole: what is left of these are the scores."""
    for layer in model.layers:
        stack = layer.stack
        for parts, out in zip(stack.projections, stack.attention, strict=True):
            _time_module(watch, SCORES, layer.module(body, parts[0].rpartition(".")[0]))
            for part in (*parts, out):
                _time_module(watch, PROJECTIONS, layer.module(body, part))
        for matrix in (layer.key(body), layer.up(body), layer.module(body, stack.value)):
            if matrix is not None:
                _time_module(watch, FFN, matrix)


def _time_module(watch: Stopwatch, row: str, module: nn.Module) -> None:
    depths: list[int] = []
    module.register_forward_pre_hook(lambda *_: depths.append(watch.enter(row)))
    module.register_forward_hook(lambda *_: watch.leave(depths.pop()))

"""Throughput of the trigger search beside the forward passes that it is compared with.

Four ways over the same units, timed in turn, several rounds, medians:

- `forward`: the bare headless Hugging Face forward on our batches, nothing captured;
- `hooks + topk`: the same with a hook per layer and `torch.topk` merged per batch;
- `arrival order`: the bare forward on batches in arrival order, padded to the longest;
- `pyengine`: the whole search.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyengine.analyses.trigger_search import Settings, trigger_search
from pyengine.batches import Batch, form_batches
from pyengine.engine import BLOCK_TOKENS
from pyengine.extraction.run import Extractor
from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.precision import precision
from pyengine.store import TokenStore


class Timing(NamedTuple):
    """One way's medians.

    Attributes:
        name: the way.
        wall_s: seconds on the clock.
        cpu_s: seconds of CPU time, all threads.
        tokens_per_s: content tokens per second on the clock.
        ratio: CPU time of the first way over this one's (wall time on CUDA): above 1 is faster.
    """

    name: str
    wall_s: float
    cpu_s: float
    tokens_per_s: float
    ratio: float


@dataclass(frozen=True)
class Ways:
    """The ways to measure, over one model and one store.

    Args:
        model: of any family; T5's decoder reads the same text, shifted right.
        store: the units.
        k: examples per key.
        batch_tokens: tokens per batch, padding included.
    """

    model: Model
    store: TokenStore
    k: int
    batch_tokens: int

    def all(self) -> dict[str, Callable[[], object]]:
        """Return the ways by name; each call runs over all units."""
        sorted_batches = self._batches()
        arrival = self._arrival_batches()
        return {
            "forward": lambda: self._forward(sorted_batches),
            "hooks + topk": lambda: self._hooks(sorted_batches),
            "arrival order": lambda: self._forward(arrival),
            "pyengine": self._pyengine,
        }

    @property
    def padding(self) -> float:
        """Computed tokens per real one in our batches."""
        batches = self._batches()
        return sum(b.n_computed for b in batches) / sum(b.n_tokens for b in batches)

    def _batches(self) -> list[Batch]:
        search = self._search()
        special = self.model.special_tokens()
        return [
            batch
            for first, last in itertools.pairwise(search.plan.boundaries.tolist())
            for batch in form_batches(
                self.store,
                (first, last),
                prefix=list(special.prefix),
                suffix=list(special.suffix),
                batch_tokens=self.batch_tokens,
                base=0,
                pad_id=self.model.pad_id,
            )
        ]

    def _arrival_batches(self) -> list[Batch]:
        """One batch per run of units as they come: as many as usually fit the budget."""
        lengths = np.diff(self.store.offsets)
        rows = max(1, self.batch_tokens // max(int(np.percentile(lengths, 90)), 1))
        special = self.model.special_tokens()
        return [
            batch
            for first in range(0, self.store.n_units, rows)
            for batch in form_batches(
                self.store,
                (first, min(first + rows, self.store.n_units)),
                prefix=list(special.prefix),
                suffix=list(special.suffix),
                batch_tokens=1 << 40,
                base=0,
                pad_id=self.model.pad_id,
            )
        ]

    def _search(self) -> Extractor:
        settings = Settings(
            k=self.k,
            layers=tuple(range(self.model.n_layers)),
            batch_tokens=self.batch_tokens,
            block_tokens=BLOCK_TOKENS[self.model.device.type],
        )
        return trigger_search(self.model, settings, self.store, (0, 1))

    def _pyengine(self) -> object:
        search = self._search()
        search.run()
        return search.feeds[0].state(0)

    @torch.inference_mode()
    def _forward(self, batches: list[Batch]) -> None:
        body = self.model.body
        was_training = body.training
        body.eval()
        with precision(self.model.dtype):
            for batch in batches:
                self._run(batch)
        body.train(was_training)

    def _run(self, batch: Batch) -> None:
        body: Any = self.model.body
        read = self._inputs(batch)
        if not self.model.family.encoder_decoder:
            body(**read)
            return
        encoded = body.encoder(**read)[0]
        decoder = self._inputs(batch.shifted(self.model.decoder_start_id))
        seen = {"encoder_hidden_states": encoded, "encoder_attention_mask": read["attention_mask"]}
        body.decoder(**decoder, **seen, use_cache=False)

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask")
        return {n: torch.from_numpy(getattr(batch, n)).to(self.model.device) for n in names}

    def _hooks(self, batches: list[Batch]) -> list[tuple[Tensor, Tensor]]:
        """The textbook way: one hook per layer, torch.topk over the batch, merged at once."""
        best: dict[int, tuple[Tensor, Tensor]] = {}
        current: dict[str, Tensor] = {}

        def hook(layer: Layer, acts: Tensor) -> None:
            ids = current[layer.stack.name].reshape(-1)
            flat = acts.reshape(-1, acts.shape[-1])[ids >= 0].float()
            scores, rows = flat.topk(min(self.k, len(flat)), dim=0)
            found = scores, ids[ids >= 0][rows]
            if layer.index in best:
                merged = [torch.cat(pair) for pair in zip(best[layer.index], found, strict=True)]
                scores, order = merged[0].topk(min(self.k, len(merged[0])), dim=0)
                found = scores, merged[1].gather(0, order)
            best[layer.index] = found

        handles = [
            layer.module(self.model.body, layer.stack.value).register_forward_pre_hook(
                lambda _module, inputs, layer=layer: hook(layer, inputs[0])
            )
            for layer in self.model.layers
        ]
        try:
            for batch in batches:
                for stack in self.model.family.stacks:
                    shifted = stack.causal and self.model.family.encoder_decoder
                    read = batch.shifted(self.model.decoder_start_id) if shifted else batch
                    current[stack.name] = torch.from_numpy(read.ids).to(self.model.device)
                self._forward([batch])
        finally:
            for handle in handles:
                handle.remove()
        return [best[layer] for layer in sorted(best)]


def measure(
    ways: Ways,
    rounds: int,
    report: Callable[[str], None] | None = None,
    *,
    chosen: Sequence[str] | None = None,
    warm_up: bool = True,
) -> list[Timing]:
    """Time every (chosen) way in turn, `rounds` times, and take medians.

    Ratios are to the first of them. `warm_up` runs an unmeasured round before.
    """
    runs = {name: run for name, run in ways.all().items() if chosen is None or name in chosen}
    walls: dict[str, list[float]] = {name: [] for name in runs}
    cpus: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, run in runs.items():
            wall, cpu = _timed(run, ways.model.device)
            if report is not None:
                report(f"round {number} of {rounds}: {name} {wall:.1f} s")
            if number:
                walls[name].append(wall)
                cpus[name].append(cpu)
    cost = walls if ways.model.device.type == "cuda" else cpus
    base = statistics.median(next(iter(cost.values())))
    return [
        Timing(
            name,
            statistics.median(walls[name]),
            statistics.median(cpus[name]),
            ways.store.n_tokens / statistics.median(walls[name]),
            base / statistics.median(cost[name]),
        )
        for name in runs
    ]


def _timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu

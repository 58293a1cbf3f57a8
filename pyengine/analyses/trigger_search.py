"""One shard of a trigger search: the engine's pass into a StreamingTopK, with checkpoints."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine import ops
from pyengine.batches import plan_blocks, shard_blocks
from pyengine.engine import Cursor, Pass, Plan, Progress
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.reducers.topk import MAX_IDS, SIGNS, StreamingTopK
from pyengine.run import RunFolder
from pyengine.shards import Heaps, Shard, load_shard, save_shard
from pyengine.store import TokenStore
from pyengine.units import UnitTable

# By device type. Larger batches need larger blocks to stay below 1.10 computed tokens per real one.
BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
BLOCK_TOKENS = {"cpu": 131_072, "cuda": 524_288}
CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True)
class Settings:
    """What decides the result. Defaults are those of `trigger_examples`."""

    k: int = 50
    per: str = "unit"
    value: str = "post"
    sign: str = "max"
    floor: float | None = None
    activation: str = "fused"
    layers: tuple[int, ...] = ()
    dims: tuple[int, ...] | None = None
    bos: bool = False
    batch_tokens: int = BATCH_TOKENS["cpu"]
    block_tokens: int = BLOCK_TOKENS["cpu"]

    def question(self) -> dict[str, Any]:
        """The settings that define the result mathematically."""
        names = ("k", "per", "value", "sign", "floor", "bos")
        dims = None if self.dims is None else list(self.dims)
        return {name: getattr(self, name) for name in names} | {
            "layers": list(self.layers),
            "dims": dims,
        }

    def numerics(self) -> dict[str, Any]:
        """The settings that only move the last bits of an activation."""
        names = ("activation", "batch_tokens", "block_tokens")
        return {name: getattr(self, name) for name in names}


class TriggerSearch:
    """A pass over one shard of the corpus into a StreamingTopK; the engine's reducer."""

    def __init__(
        self, model: Model, settings: Settings, store: TokenStore, shard: tuple[int, int]
    ) -> None:
        self.model, self.settings, self.store = model, settings, store
        self.index, self.n_shards = shard
        boundaries = plan_blocks(store.offsets, settings.block_tokens)
        self.plan = Plan(
            store,
            boundaries,
            shard_blocks(len(boundaries) - 1, *shard),
            settings.batch_tokens,
            bos=settings.bos,
            starts=store.prefix_starts() if settings.per == "prefix" else None,
        )
        if self.plan.n_tokens >= MAX_IDS:
            raise PyengineError(
                f"{self.plan.n_tokens} tokens are too many for one shard; use more shards"
            )
        self._dims = None
        if settings.dims is not None:
            self._dims = torch.tensor(settings.dims, device=model.device)
        self._n_dims = model.d_ff if settings.dims is None else len(settings.dims)
        self._first_key = {layer: i * self._n_dims for i, layer in enumerate(settings.layers)}
        self.topk = StreamingTopK(
            settings.k,
            len(settings.layers) * self._n_dims,
            per="unit" if settings.per == "unit" else "token",
            sign=settings.sign,
            floor=settings.floor,
            device=model.device,
        )
        self.progress = Progress()

    def run(
        self, save: Callable[[], None], on_segment: Callable[[Progress, Plan], None] | None
    ) -> None:
        """Run the pass from `progress` on, calling `save` wherever it could be saved."""

        def after_segment(progress: Progress) -> None:
            save()
            if on_segment is not None:
                on_segment(progress, self.plan)

        Pass(
            self.model,
            self.plan,
            list(self.settings.layers),
            self,
            value=self.settings.value,
            activation=self.settings.activation,
            signs=SIGNS[self.settings.sign],
            progress=self.progress,
        ).run(after_segment)

    def observe(
        self, layer: int, captured: ops.Captured, rows: ops.Rows, seen: int, careful: bool
    ) -> None:
        if self._dims is not None:
            values = captured.values.index_select(-1, self._dims)
            captured = ops.ffn_capture(values, rows, act="identity", signs=self.topk.signs)
        self.topk.fold(captured, rows, first_key=self._first_key[layer], seen=seen, careful=careful)

    def flush(self) -> None:
        self.topk.flush()

    def take_overflow(self) -> bool:
        return self.topk.take_overflow()

    def snapshot(self) -> dict[int, Tensor]:
        return self.topk.snapshot()

    def restore(self, snapshot: dict[int, Tensor]) -> None:
        self.topk.restore(snapshot)

    def shard(self, complete: bool) -> Shard:
        """Return what has been found so far, with offsets in the whole corpus."""
        heaps = {}
        for direction in ("max", "min"):
            if self.settings.sign in (direction, "both"):
                scores, ids = self.topk.entries(direction)
                ids = torch.where(ids >= 0, ids + self.plan.base, -1)
                heaps[direction] = Heaps(scores.numpy(), ids.numpy())
        table = None
        if complete:
            found = np.concatenate([heap.ids.ravel() for heap in heaps.values()])
            table = UnitTable.from_store(self.store, found)
        return Shard(heaps, table, self._record(complete))

    def load(self, shard: Shard) -> None:
        """Continue from a checkpoint."""
        entries = {}
        for direction, heaps in shard.heaps.items():
            sign = SIGNS[direction][0]
            scores, ids = torch.from_numpy(heaps.scores), torch.from_numpy(heaps.ids)
            keys = ops.pack(scores * sign, ids - self.plan.base)
            entries[direction] = torch.where(ids >= 0, keys, ops.EMPTY)
        self.topk.load_state_dict(entries)
        record = shard.record
        self.progress = Progress(
            Cursor(*record["cursor"]),
            record["n_tokens"],
            record["n_computed"],
            torch.tensor(record["n_nan"]),
            record["exact"],
        )

    def _record(self, complete: bool) -> dict[str, Any]:
        progress, boundaries = self.progress, self.plan.boundaries
        blocks = self.plan.blocks
        return {
            "shard": self.index,
            "n_shards": self.n_shards,
            "units": [int(boundaries[blocks.start]), int(boundaries[blocks.stop])],
            "cursor": list(progress.cursor),
            "complete": complete,
            "exact": progress.exact,
            "n_tokens": progress.n_tokens,
            "n_computed": progress.n_computed,
            "n_nan": progress.n_nan.tolist(),
        }


def run_with_checkpoints(
    search: TriggerSearch,
    run: RunFolder,
    checkpoint_blocks: int | None,
    on_segment: Callable[[Progress, Plan], None] | None,
) -> Shard:
    """Run a shard from its last checkpoint to its end; whatever stops it, the work is saved."""
    file = run.shard_file(search.index, search.n_shards)
    if file.exists():
        before = load_shard(file)
        if before.complete:
            return before
        search.load(before)
    due = _Due(checkpoint_blocks, search.progress.cursor.blocks)

    def save() -> None:
        if due(search.progress.cursor):
            save_shard(file, search.shard(complete=False))

    try:
        search.run(save, on_segment)
    except BaseException:
        # A half-folded segment does no harm: folding it again changes nothing.
        with contextlib.suppress(PyengineError):
            save_shard(file, search.shard(complete=False))
        raise
    found = search.shard(complete=True)
    save_shard(file, found)
    return found


class _Due:
    """Says when to save: every so many blocks, or every 30 seconds."""

    def __init__(self, every_blocks: int | None, blocks: int) -> None:
        self._every_blocks = every_blocks
        self._blocks = blocks
        self._time = time.monotonic()

    def __call__(self, cursor: Cursor) -> bool:
        if self._every_blocks is None:
            due = time.monotonic() - self._time >= CHECKPOINT_SECONDS
        else:
            due = cursor.blocks - self._blocks >= self._every_blocks
        if due:
            self._time, self._blocks = time.monotonic(), cursor.blocks
        return due

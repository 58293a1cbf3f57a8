"""One shard of a pass over a corpus into reducers: its plan, its checkpoints, its run directory."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from pyengine.batches import Batch, plan_blocks, shard_blocks
from pyengine.engine import Cursor, Pass, Plan, Progress
from pyengine.errors import PyengineError
from pyengine.extraction.feeds import Feed
from pyengine.extraction.partials import shard_of_partials
from pyengine.models import Model
from pyengine.reducers.topk import MAX_IDS
from pyengine.run import RunFolder
from pyengine.shards import Shard, load_shard, save_shard
from pyengine.store import TokenStore
from pyengine.token_text import TokenText
from pyengine.units import UnitTable

CHECKPOINT_SECONDS = 30.0

OnProgress = Callable[[int, int], None]


def make_plan(
    store: TokenStore,
    shard: tuple[int, int],
    *,
    batch_tokens: int,
    block_tokens: int,
    bos: bool,
    whole_partials: bool = False,
) -> Plan:
    """Cut a corpus into blocks, and take those of one shard.

    Args:
        store: the tokenised corpus. While it is written, its last block is left out: it may go on.
        shard: (i, n), from 0.
        batch_tokens, bos: as `pyengine.engine.Plan` has them.
        block_tokens: content tokens per block.
        whole_partials: shards own whole ranges of `pyengine.extraction.partials`.

    Raises:
        PyengineError: if there is no such shard, or it has too many tokens.
    """
    boundaries = plan_blocks(store.offsets, block_tokens)
    cut = shard_of_partials if whole_partials else shard_blocks
    n_blocks = len(boundaries) - (1 if store.complete else 2)
    plan = Plan(store, boundaries, cut(n_blocks, *shard), batch_tokens, bos=bos)
    if plan.n_tokens >= MAX_IDS:
        raise PyengineError(f"{plan.n_tokens} tokens are too many for one shard; use more shards")
    return plan


class Extractor:
    """One shard of a pass over a corpus into reducers.

    Args:
        model: the model.
        plan: what this shard reads.
        feeds: the reducers and their sites.
        shard: (i, n), from 0.
        activation: `fused` or `model`.
        prepare: as `pyengine.engine.Pass` takes it.

    Attributes:
        plan, progress: as of `pyengine.engine.Pass`.
        began: when it was made, in seconds since the epoch.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        feeds: Sequence[Feed],
        shard: tuple[int, int],
        *,
        activation: str = "fused",
        prepare: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self.feeds, self.shard, self.began = feeds, shard, time.time()
        self._pass = Pass(model, plan, feeds, activation=activation, prepare=prepare)

    @property
    def plan(self) -> Plan:
        return self._pass.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self._pass.plan = plan

    @property
    def progress(self) -> Progress:
        return self._pass.progress

    def run(
        self, save: Callable[[], None] | None = None, on_progress: OnProgress | None = None
    ) -> None:
        """Run from `progress` on, calling `save` wherever the pass could be saved."""

        def after_segment(progress: Progress) -> None:
            if save is not None:
                save()
            if on_progress is not None:
                on_progress(progress.n_tokens, self.plan.n_tokens)

        self._pass.run(after_segment)

    def found(self, complete: bool) -> Shard:
        """Return what has been found so far, with offsets in the whole corpus."""
        states = [feed.state(self.plan.base) for feed in self.feeds]
        found = Shard(states, None, self._record(complete))
        if not complete:
            return found
        return Shard(states, UnitTable.from_store(self.plan.store, found.ids), found.record)

    def load(self, shard: Shard) -> None:
        """Continue from a checkpoint."""
        for feed, state in zip(self.feeds, shard.states, strict=True):
            feed.load(state, self.plan.base)
        record = shard.record
        self._pass.progress = Progress(
            torch.tensor(record["n_nan"]),
            Cursor(*record["cursor"]),
            record["n_tokens"],
            record["n_computed"],
            record["exact"],
        )

    def _record(self, complete: bool) -> dict[str, Any]:
        progress, boundaries, blocks = self.progress, self.plan.boundaries, self.plan.blocks
        return {
            "shard": self.shard[0],
            "n_shards": self.shard[1],
            "units": [int(boundaries[blocks.start]), int(boundaries[blocks.stop])],
            "cursor": list(progress.cursor),
            "complete": complete,
            "exact": progress.exact,
            "n_tokens": progress.n_tokens,
            "n_computed": progress.n_computed,
            "n_nan": progress.n_nan.tolist(),
        }


class Result(Protocol):
    """What comes of a complete pass."""

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Write it into a run directory and complete that."""


R = TypeVar("R", bound=Result)


def carry_out(
    extractor: Extractor,
    manifest: dict[str, Any],
    text: TokenText,
    from_shard: Callable[[Shard, dict[str, Any]], R],
    reopen: Callable[[Path], R],
    *,
    out: str | Path | None = None,
    checkpoint_blocks: int | None = None,
    on_progress: OnProgress | None = None,
) -> R:
    """Run a pass to its end, in memory or in a run directory, which resumes it.

    Args:
        extractor: one shard of the pass.
        manifest: of the run that is about to start.
        text: saved beside the result.
        from_shard: makes the result of a complete shard and the manifest.
        reopen: opens the directory of a run that is complete already.
        out: the run directory; None keeps the result in memory.
        checkpoint_blocks: save every so many blocks; None saves every 30 seconds.
        on_progress: called with (content tokens done, in all) whenever a few batches are done.

    Returns:
        The result (of this shard only when there are several).

    Raises:
        PyengineError: if the directory was made with other settings.
    """
    if out is None:
        extractor.run(on_progress=on_progress)
        return from_shard(extractor.found(complete=True), manifest)
    run = RunFolder.begin(Path(out), manifest)
    if run.complete:
        return reopen(run.path)
    text.save(run.path)
    with run.lock(*extractor.shard):
        found = _run_with_checkpoints(extractor, run, checkpoint_blocks, on_progress)
        result = from_shard(found, run.manifest)
        if extractor.shard[1] == 1:
            result.write(run, seconds=time.time() - extractor.began)
    return result


def _run_with_checkpoints(
    extractor: Extractor,
    run: RunFolder,
    checkpoint_blocks: int | None,
    on_progress: OnProgress | None,
) -> Shard:
    """Run a shard from its last checkpoint to its end; whatever stops it, the work is saved."""
    file = run.shard_file(*extractor.shard)
    if file.exists():
        before = load_shard(file)
        if before.complete:
            return before
        extractor.load(before)
    due = _Due(checkpoint_blocks, extractor.progress.cursor.blocks)

    def save() -> None:
        if due(extractor.progress.cursor):
            save_shard(file, extractor.found(complete=False))

    try:
        extractor.run(save, on_progress)
    except BaseException:
        with contextlib.suppress(PyengineError):
            save_shard(file, extractor.found(complete=False))
        raise
    found = extractor.found(complete=True)
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

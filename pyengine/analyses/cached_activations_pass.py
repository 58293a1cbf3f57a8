"""The pass behind `cache_activations`: block by block, every site's rows in the corpus's order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine.analyses.cached_activations_settings import (
    SAVE_DTYPES,
    CacheSettings,
    Layout,
)
from pyengine.batches import Batch, plan_blocks
from pyengine.errors import PyengineError
from pyengine.forward import Forward, to_device
from pyengine.model_batches import model_batches
from pyengine.models import Model
from pyengine.out_of_memory import batch_pieces, next_split
from pyengine.precision import precision
from pyengine.sites import Site
from pyengine.store import Report, TokenStore
from pyengine.taps import StopForwardError, attach

# Given a site, its values [n, ...] at the content tokens of a batch, and the offsets of these
# tokens in the block, int64 [n] on the CPU.
Take = Callable[[Site, Tensor, Tensor], None]


class SiteRows:
    """Runs batches through a model with its own modules, and hands on sites row by row.

    Args:
        model: the model; it is copied structurally, its parameters are shared.
        sites: with one row per token, in the body; the pass ends with the last of them.
    """

    def __init__(self, model: Model, sites: Sequence[Site]) -> None:
        self._model, self._sites = model, sites
        self._forward = Forward(model)
        self._pending: set[Site] = set()
        self._take: Take | None = None
        self._at: dict[str, _Places] = {}
        for site in sites:
            attach(self._forward.body, site, partial(self._tapped, site))

    @property
    def needs_decoder(self) -> bool:
        """Whether T5's decoder has to run."""
        stacks = {site.stack for site in self._sites}
        return self._model.family.encoder_decoder and "decoder" in stacks

    @torch.inference_mode()
    def run(self, batch: Batch, decoder: Batch | None, take: Take) -> None:
        """Run one batch, calling `take` once per site, inside the forward pass.

        Raises:
            PyengineError: if the forward pass does not come to a site.
        """
        stacks = self._model.family.stacks
        for stack, part in zip(stacks, (batch, decoder), strict=False):
            if part is not None:
                self._at[stack.name] = _Places(part, self._model.device)
        self._take, self._pending = take, set(self._sites)
        try:
            self._forward.run(batch, decoder)
        except StopForwardError:
            return
        finally:
            self._take = None
            self._at.clear()
        names = ", ".join(sorted(site.name for site in self._pending))
        raise PyengineError(f"the forward pass of {self._model.name} does not come to {names}")

    def _tapped(self, site: Site, value: Tensor) -> None:
        assert self._take is not None
        at = self._at[site.positions]
        rows = at.rows if len(value) > 1 else at.rows * 0  # position embeddings are shared
        self._take(site, value[rows, at.columns], at.ids)
        self._pending.remove(site)
        if not self._pending:
            raise StopForwardError


class _Places:
    """Where the content tokens of a batch are in its tensors, and in the block."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        rows, columns = np.nonzero(batch.ids >= 0)
        self.rows, self.columns = to_device(rows, device), to_device(columns, device)
        self.ids = torch.from_numpy(batch.ids[rows, columns])


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of a block, in the corpus's order.

    Attributes:
        tensors: by site, [n_tokens, ...].
        record: counters: n_tokens, n_computed; n_overflow, finite numbers that became infinite in
            the dtype they are kept in; exact, False if memory was short and the shape of a batch
            was changed.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]


class CachePass:
    """Computes blocks; a block's bits depend on nothing outside of it.

    Args:
        model: the model.
        sites: what to keep.
        store: the units.
        settings: how.

    Attributes:
        layout: what is kept of each token.
        block_tokens: content tokens per block.
        boundaries: as `pyengine.batches.plan_blocks` returns them.
    """

    def __init__(
        self, model: Model, sites: Sequence[Site], store: TokenStore, settings: CacheSettings
    ) -> None:
        self.model, self.store, self.settings = model, store, settings
        self._rows = SiteRows(model, sites)
        self.layout = self._probe()
        own = settings.block_tokens
        self.block_tokens = self.layout.block_tokens(model.device.type) if own is None else own
        self.boundaries = plan_blocks(store.offsets, self.block_tokens)

    def units(self, block: int) -> tuple[int, int]:
        """Return a block's first unit, and the one after its last."""
        return int(self.boundaries[block]), int(self.boundaries[block + 1])

    def n_tokens(self, block: int) -> int:
        """Return a block's content tokens."""
        first, last = self.units(block)
        return int(self.store.offsets[last] - self.store.offsets[first])

    def run(self, block: int, on_batch: Callable[[int], None]) -> Block:
        """Compute a block; `on_batch` is called with the content tokens of each batch done."""
        n, layout = self.n_tokens(block), self.layout
        tensors = {
            name: torch.empty((n, *shape), dtype=layout.dtypes[name])
            for name, shape in layout.shapes.items()
        }
        n_computed, n_overflow, exact = 0, 0, True
        with precision(self.model.dtype):
            for batch, decoder in self._batches(self.store, self.units(block)):
                overflow, whole = self._run_batch(batch, decoder, tensors)
                n_overflow += overflow
                n_computed += batch.n_computed
                exact &= whole
                on_batch(batch.n_tokens)
        record = {"n_tokens": n, "n_computed": n_computed}
        return Block(tensors, record | {"n_overflow": n_overflow, "exact": exact})

    def _run_batch(
        self, batch: Batch, decoder: Batch | None, tensors: dict[str, Tensor]
    ) -> tuple[int, bool]:
        """Run a batch, in parts where memory is short; return overflows, and whether whole."""
        split = 1
        while True:
            n_overflow = 0

            def keep(site: Site, values: Tensor, ids: Tensor) -> None:
                nonlocal n_overflow
                target = tensors[site.name]
                rounded = values.to(target.dtype)
                if rounded.dtype != values.dtype:
                    n_overflow += int((rounded.isinf() & values.isfinite()).sum())
                target[ids] = rounded.cpu()

            try:
                for piece in batch_pieces(batch, decoder, split):
                    self._rows.run(*piece, keep)
                return n_overflow, split == 1
            except (torch.OutOfMemoryError, RuntimeError) as error:
                split = next_split(error, split, len(batch.units))
            torch.cuda.empty_cache()

    def _batches(
        self, store: TokenStore, units: tuple[int, int]
    ) -> Iterator[tuple[Batch, Batch | None]]:
        return model_batches(
            self.model,
            store,
            units,
            batch_tokens=self.settings.batch_tokens,
            bos=self.settings.bos,
            decoder=self._rows.needs_decoder,
            base=int(store.offsets[units[0]]),
        )

    def _probe(self) -> Layout:
        """Find the widths by running the corpus's first token."""
        dtype = SAVE_DTYPES.get(str(self.settings.save_dtype))
        offsets = np.array([0, 1])
        first = TokenStore(self.store.tokens[:1], offsets, Report(), self.store.adds_special, "")
        layout = Layout({}, {})

        def note(site: Site, values: Tensor, _ids: Tensor) -> None:
            layout.shapes[site.name] = tuple(values.shape[1:])
            layout.dtypes[site.name] = values.dtype if dtype is None else dtype

        with precision(self.model.dtype):
            for batch, decoder in self._batches(first, (0, 1)):
                self._rows.run(batch, decoder, note)
        return layout

"""The pass behind `extract_heads`: block by block, every place's vectors, pooled on the device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyengine.batches import Batch, form_batches, plan_blocks
from pyengine.capture import Capture, Maxima
from pyengine.forward import to_device
from pyengine.heads.extract_settings import ExtractSettings
from pyengine.heads.pooling import Pooled
from pyengine.heads.sentences import Sentences
from pyengine.models import Model
from pyengine.out_of_memory import batch_pieces, next_split
from pyengine.precision import precision
from pyengine.sites import Site

NOTHING_COMPETES = Maxima(None)


@dataclass(frozen=True, eq=False)
class Block:
    """The vectors of the sentences of a block, in their order.

    Attributes:
        tensors: by place, [n, width], on the CPU.
        record: counters: n_sentences, n_tokens, n_computed, n_overflow, n_nan, exact.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]


class PooledSites:
    """Runs batches through a model, up to the last site, and hands on what is pooled.

    Args:
        model: the model; it is copied structurally, its parameters are shared.
        settings: the sites, and how each stack is pooled.
    """

    def __init__(self, model: Model, settings: ExtractSettings) -> None:
        self._model, self._pooling = model, settings.pooling
        self._names = {place.site: kept.name for place, kept in settings.places}
        sites = dict.fromkeys(self._names, NOTHING_COMPETES)
        self._capture = Capture(model, sites, self._take, activation=settings.activation)
        self._pools: dict[str, Pooled] = {}
        self._found: dict[str, Tensor] = {}

    @property
    def needs_decoder(self) -> bool:
        """Whether T5's decoder has to run."""
        stacks = {site.positions for site in self._names}
        return self._model.family.encoder_decoder and "decoder" in stacks

    def run(self, batch: Batch, decoder: Batch | None) -> dict[str, Tensor]:
        """Return the vectors of the rows of a batch by place, [B, width], on the device."""
        for stack, part in zip(self._model.family.stacks, (batch, decoder), strict=False):
            if part is not None:
                pooling = self._pooling[stack.name]
                self._pools[stack.name] = Pooled(part, pooling, self._model.device)
        try:
            self._capture.run(batch, decoder)
            return self._found
        finally:
            self._pools, self._found = {}, {}

    def _take(self, site: Site, captured: Any, _reading: Any) -> None:
        self._found[self._names[site]] = self._pools[site.positions](captured.values)


class HeadPass:
    """Computes blocks; a block's bits depend on nothing outside of it.

    Args:
        model: the model.
        sentences: what it reads.
        settings: how.

    Attributes:
        block_tokens: tokens per block.
        boundaries: as `pyengine.batches.plan_blocks` returns them.
    """

    def __init__(self, model: Model, sentences: Sentences, settings: ExtractSettings) -> None:
        self.model, self.sentences, self.settings = model, sentences, settings
        self._sites = PooledSites(model, settings)
        self.block_tokens = settings.block_tokens_of(sentences, model.device.type)
        self.boundaries = plan_blocks(sentences.store.offsets, self.block_tokens)

    def units(self, block: int) -> tuple[int, int]:
        """Return a block's first sentence, and the one after its last."""
        return int(self.boundaries[block]), int(self.boundaries[block + 1])

    def n_tokens(self, block: int) -> int:
        """Return a block's tokens, special ones left out."""
        first, last = self.units(block)
        return int(self.sentences.store.offsets[last] - self.sentences.store.offsets[first])

    def run(self, block: int, on_batch: Callable[[int], None]) -> Block:
        """Compute a block; `on_batch` is called with the tokens of each batch done."""
        first, last = self.units(block)
        device, n = self.model.device, last - first
        tensors = {
            kept.name: torch.empty((n, kept.width), dtype=self.settings.dtype, device=device)
            for _, kept in self.settings.places
        }
        # On the device, which is not waited for: numbers that overflow, and those that are NaN.
        odd, n_computed, exact = torch.zeros(2, dtype=torch.int64, device=device), 0, True
        with torch.inference_mode(), precision(self.model.dtype):
            for batch, decoder in self.batches((first, last)):
                found, whole = self._run_batch(batch, decoder, first, tensors)
                odd += found
                n_computed += batch.n_computed
                exact &= whole
                on_batch(batch.n_tokens)
        n_overflow, n_nan = odd.tolist()
        record = {"n_sentences": n, "n_tokens": self.n_tokens(block), "n_computed": n_computed}
        record |= {"n_overflow": n_overflow, "n_nan": n_nan, "exact": exact}
        return Block({name: tensor.cpu() for name, tensor in tensors.items()}, record)

    def _run_batch(
        self, batch: Batch, decoder: Batch | None, first: int, tensors: dict[str, Tensor]
    ) -> tuple[Tensor, bool]:
        """Run a batch, in parts where memory is short; return what is odd, and whether whole."""
        split = 1
        while True:
            try:
                parts = [
                    self._keep(*piece, first, tensors)
                    for piece in batch_pieces(batch, decoder, split)
                ]
                return torch.stack(parts).sum(0), split == 1
            except (torch.OutOfMemoryError, RuntimeError) as error:
                split = next_split(error, split, len(batch.units))
            torch.cuda.empty_cache()

    def _keep(
        self, batch: Batch, decoder: Batch | None, first: int, tensors: dict[str, Tensor]
    ) -> Tensor:
        """Put the vectors of a batch in their rows; count what overflows, and what is NaN."""
        rows = to_device(batch.units - first, self.model.device)
        odd = []
        for name, values in self._sites.run(batch, decoder).items():
            rounded = values.to(self.settings.dtype)
            tensors[name][rows] = rounded
            overflow = rounded.isinf() & values.isfinite()
            odd.append(torch.stack([overflow.sum(), rounded.isnan().sum()]))
        return torch.stack(odd).sum(0)

    def batches(self, units: tuple[int, int]) -> Iterator[tuple[Batch, Batch | None]]:
        """Yield the batches of some sentences; T5's decoder input beside, where it has to run."""
        model, special = self.model, self.model.special_tokens()
        for batch in form_batches(
            self.sentences.store,
            units,
            prefix=special.prefix,
            suffix=(*special.suffix, *self.settings.appended),
            batch_tokens=self.settings.batch_tokens,
            base=int(self.sentences.store.offsets[units[0]]),
            pad_id=model.pad_id,
        ):
            decoder = batch.shifted(model.decoder_start_id) if self._sites.needs_decoder else None
            yield batch, decoder

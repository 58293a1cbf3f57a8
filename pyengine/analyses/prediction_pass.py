"""The pass behind `ffn_predictions`: block by block, from units to the rows of the tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pyengine.analyses.layer_mode import LayerMode
from pyengine.analyses.prediction_examples import BlockTable, Examples
from pyengine.analyses.prediction_settings import PredictionSettings, final_readout
from pyengine.analyses.prediction_tables import Arrays
from pyengine.analyses.value_mode import ValueMode
from pyengine.batches import Batch, plan_blocks
from pyengine.ffn_sites import FFNSite, FFNSites
from pyengine.forward import to_device
from pyengine.model_batches import model_batches
from pyengine.models import Model
from pyengine.out_of_memory import batch_pieces, next_split
from pyengine.precision import precision
from pyengine.store import TokenStore
from pyengine.token_text import TokenText


class Mode(Protocol):
    """Reduces each layer of a batch to columns of the table."""

    def keep(self, site: FFNSite) -> Any:
        """Reduce a layer, inside the forward pass, to what `columns` needs."""

    def columns(
        self, layer: int, kept: Any, final: Tensor, gold: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the columns of a layer, [n] or [n, list] each, and which rows hold a NaN.

        Args:
            layer: index of the layer.
            kept: from `keep`.
            final: int64 [n], the model's own prediction.
            gold: int64 [n], the token that is to be predicted, -1 = none.
        """


MODES: dict[str, Callable[[Model, PredictionSettings], Mode]] = {
    "layer": LayerMode,
    "value": ValueMode,
}

# Output distributions computed at once.
DISTRIBUTION_ROWS = 256


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of a block, in order of unit, position and (in `table`) layer.

    Attributes:
        table: columns of the table, [rows] or [rows, list].
        examples: columns of the examples.
        record: counters: n_examples, n_tokens, n_computed, n_nan per layer of the model; exact,
            False if memory was short and the shape of a batch was changed.
    """

    table: Arrays
    examples: Arrays
    record: dict[str, Any]


class PredictionPass:
    """Computes blocks of predictions; a block's bits depend on nothing outside of it."""

    def __init__(self, model: Model, settings: PredictionSettings, store: TokenStore) -> None:
        assert settings.layers and settings.batch_tokens and settings.block_tokens
        self.model, self.settings, self.store = model, settings, store
        self.boundaries = plan_blocks(store.offsets, settings.block_tokens)
        self._layers, self._batch_tokens = settings.layers, settings.batch_tokens
        self._text = TokenText.of(model.tokenizer)
        stacks = {model.layers[index].stack.name for index in settings.layers}
        # The last layer of each stack gives the model's own prediction.
        self._lasts = {
            layer.stack.name: layer for layer in model.layers if layer.stack.name in stacks
        }
        self._finals = {name: final_readout(model, layer) for name, layer in self._lasts.items()}
        self._decoder = model.family.encoder_decoder and "decoder" in stacks
        self._kept: dict[int, Any] = {}
        self._outputs: dict[str, Tensor] = {}

    @cached_property
    def _tools(self) -> tuple[Mode, FFNSites]:
        """What reduces a layer to its columns (it reads all values once), and where layers come."""
        mode = MODES[self.settings.mode](self.model, self.settings)

        def observe(site: FFNSite) -> None:
            if site.layer.index in self._layers:
                self._kept[site.layer.index] = mode.keep(site)
            name = site.layer.stack.name
            if site.layer is self._lasts[name]:
                self._outputs[name] = site.residual + site.output

        tapped = sorted({*self._layers, *(layer.index for layer in self._lasts.values())})
        activation = str(self.settings.activation)
        return mode, FFNSites(self.model, tapped, observe, activation=activation)

    def units(self, block: int) -> tuple[int, int]:
        """Return a block's first unit, and the one after its last."""
        return int(self.boundaries[block]), int(self.boundaries[block + 1])

    def n_tokens(self, block: int) -> int:
        """Return a block's content tokens."""
        first, last = self.units(block)
        return int(self.store.offsets[last] - self.store.offsets[first])

    def examples(self, block: int) -> Examples:
        """Choose the examples of a block."""
        return Examples.choose(
            self.store, self.units(block), self.settings.position, self.settings.seed
        )

    @torch.inference_mode()
    def run(
        self,
        block: int,
        distributions: np.ndarray | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Block:
        """Compute a block.

        Args:
            block: its number.
            distributions: float32 [examples of the block, vocabulary], filled with the model's
                own distributions (T5: of the last stack that was asked for).
            on_batch: called with the content tokens of each batch when it is done.
        """
        examples = self.examples(block)
        table = BlockTable(examples, self._layers)
        n_computed, n_nan, exact = 0, np.zeros(self.model.n_layers, np.int64), True
        with precision(self.model.dtype):
            for batch, decoder in self._batches(block):
                found, whole = self._run_batch(batch, decoder, examples, table, distributions)
                n_nan += found
                exact &= whole
                n_computed += batch.n_computed
                if on_batch is not None:
                    on_batch(batch.n_tokens)
        record: dict[str, Any] = {"n_examples": len(examples.units)}
        record |= {"n_tokens": self.n_tokens(block), "n_computed": n_computed}
        record |= {"n_nan": n_nan.tolist(), "exact": exact}
        return Block(table.rows(), examples.columns(self.store, self._text), record)

    def _run_batch(
        self,
        batch: Batch,
        decoder: Batch | None,
        examples: Examples,
        table: BlockTable,
        distributions: np.ndarray | None,
    ) -> tuple[np.ndarray, bool]:
        """Run a batch, in parts where memory is short; return NaN by layer, and whether whole."""
        mode, sites = self._tools
        split = 1
        while True:
            n_nan = np.zeros(self.model.n_layers, np.int64)
            try:
                for piece, piece_decoder in batch_pieces(batch, decoder, split):
                    rows, slots = examples.of_batch(piece)
                    sites.run(piece, piece_decoder, rows, examples.positions[slots])
                    n_nan += self._read(mode, table, examples, slots)
                    if distributions is not None:
                        self._distribute(distributions, slots)
                return n_nan, split == 1
            except (torch.OutOfMemoryError, RuntimeError) as error:
                split = next_split(error, split, len(batch.units))
            finally:
                self._kept.clear()
                self._outputs.clear()
            torch.cuda.empty_cache()

    def _batches(self, block: int) -> Iterator[tuple[Batch, Batch | None]]:
        return model_batches(
            self.model,
            self.store,
            self.units(block),
            batch_tokens=self._batch_tokens,
            bos=self.settings.bos,
            decoder=self._decoder,
        )

    def _read(
        self, mode: Mode, table: BlockTable, examples: Examples, slots: np.ndarray
    ) -> np.ndarray:
        """Read every layer of a batch into the table; return the rows with a NaN, by layer."""
        n_nan = np.zeros(self.model.n_layers, np.int64)
        finals = {name: self._finals[name].project(o) for name, o in self._outputs.items()}
        for number, index in enumerate(self._layers):
            stack = self.model.layers[index].stack
            final = finals[stack.name]
            known = examples.next_tokens if stack.causal else examples.tokens
            gold = to_device(known[slots], self.model.device)
            columns, nan = mode.columns(index, self._kept.pop(index), final.top_ids[:, 0], gold)
            columns |= {"gold_token": gold, "final_token": final.top_ids[:, 0]}
            columns["final_prob"] = final.top_probs[:, 0]
            table.fill(slots, number, columns)
            n_nan[index] = int(nan.sum())
        return n_nan

    def _distribute(self, distributions: np.ndarray, slots: np.ndarray) -> None:
        name, output = max(self._outputs.items(), key=lambda item: self._lasts[item[0]].index)
        for at in range(0, len(slots), DISTRIBUTION_ROWS):
            part = slice(at, at + DISTRIBUTION_ROWS)
            found = self._finals[name].logits(output[part]).softmax(1)
            distributions[slots[part]] = found.float().cpu().numpy()

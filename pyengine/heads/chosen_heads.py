"""Some heads of a model, read together: their vectors of texts, as a bank would hold them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.heads.bank_tasks import EMPTY
from pyengine.heads.extract_pass import HeadPass
from pyengine.heads.extract_settings import ExtractSettings
from pyengine.heads.pooling import Pooling
from pyengine.heads.sentences import Sentences
from pyengine.heads.task import SIMILARITY, UNSUPERVISED, Examples, Task
from pyengine.models import Model

Progress = Callable[[int, int], None]


class ChosenHeads:
    """Reads heads of a model side by side; the pass ends at the last layer that is needed.

    Attributes:
        heads: (layer, head), layers through all stacks; head -1: the place as a whole.
        settings: of the pass.
        widths: of each head's vector, in the order of the heads.
    """

    def __init__(
        self, model: Model, heads: Sequence[tuple[int, int]], location: str, pooling: Pooling
    ) -> None:
        self.model = model
        self.heads = tuple((int(layer), int(head)) for layer, head in heads)
        activation = "model" if model.dtype == "float64" else "fused"
        whole = ExtractSettings.checked(model, (location,), pooling, activation=activation)
        there = {place.layer: (place, kept) for place, kept in whole.places}
        if not self.heads:
            raise PyengineError("there are no heads to read: give at least one (layer, head)")
        for layer, head in self.heads:
            if layer not in there:
                raise PyengineError(f"{model.name} has no {location!r} in a layer {layer}")
            n = there[layer][0].n_parts
            if not -1 <= head < n:
                raise PyengineError(
                    f"{location!r} of layer {layer} of {model.name} has {n} parts, not {head}"
                )
        layers = sorted({layer for layer, _ in self.heads})
        self.settings = replace(whole, places=tuple(there[layer] for layer in layers))
        kept = {layer: there[layer][1] for layer in layers}
        self.widths = tuple(
            kept[layer].width // (1 if head < 0 else kept[layer].n_parts)
            for layer, head in self.heads
        )

    def vectors(
        self, texts: Sequence[str], batch_size: int | None, on_progress: Progress | None = None
    ) -> Tensor:
        """Return the vectors of texts, each distinct one read once.

        Args:
            texts: at least one.
            batch_size: the most of the greatest length that are computed together; None: as when a
                bank is made.
            on_progress: called with (tokens done, in all).

        Returns:
            float32 [n, sum of the widths], on the CPU.
        """
        part = Examples(tuple(texts), None, np.zeros(len(texts)))
        task = Task("texts", SIMILARITY, UNSUPERVISED, (), {"texts": part})
        sentences = Sentences.of(self.model, [task], self.settings.pooling)
        search = HeadPass(self.model, sentences, self._sized(sentences, batch_size))
        done, blocks = 0, list[Tensor]()

        def on_batch(n_tokens: int) -> None:
            nonlocal done
            done += n_tokens
            if on_progress is not None:
                on_progress(done, sentences.n_tokens)

        for block in range(len(search.boundaries) - 1):
            blocks.append(self._joined(search.run(block, on_batch).tensors))
        row = {text: i for i, text in enumerate(sentences.texts)}
        return torch.cat(blocks)[[row[text if text.strip() else EMPTY] for text in texts]]

    def _sized(self, sentences: Sentences, batch_size: int | None) -> ExtractSettings:
        if batch_size is None:
            return self.settings
        longest = int(sentences.store.lengths.max()) + self.settings.n_around(self.model)
        return replace(self.settings, batch_tokens=batch_size * longest)

    def _joined(self, tensors: dict[str, Tensor]) -> Tensor:
        """Put the heads of each sentence side by side, in their order."""
        places = {kept.layer: kept for _, kept in self.settings.places}
        parts = []
        for layer, head in self.heads:
            whole = tensors[places[layer].name].float()
            by_head = whole.unflatten(1, (places[layer].n_parts, -1))
            parts.append(whole if head < 0 else by_head[:, head])
        return torch.cat(parts, dim=1)

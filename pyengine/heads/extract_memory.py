"""What `extract_heads` will hold in memory and on disk."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pyengine.batch_bound import FLOAT, batch_bytes, batch_shapes
from pyengine.batches import plan_blocks
from pyengine.heads.extract_settings import ExtractSettings
from pyengine.heads.sentences import Sentences
from pyengine.memory_parts import Holding, Plan
from pyengine.models import Model


def vectors_plan(model: Model, asked: Mapping[str, Any]) -> Plan:
    """Plan an extraction by the arguments of `extract_heads`.

    Of tasks whose sentences have not been collected yet only the batch is known.

    Raises:
        PyengineError: where the extraction itself would refuse its settings.
    """
    settings, sentences = settings_of(model, asked), asked["tasks"]
    if not isinstance(sentences, Sentences):
        batch = batch_bytes(model, None, settings.batch_tokens)
        return {"device": [Holding("a batch", batch, bound=True)], "host": [], "disk": []}
    sizes = {"block_tokens": settings.block_tokens_of(sentences, model.device.type)}
    block = int(np.diff(plan_blocks(sentences.store.offsets, **sizes)).max())
    kept = block * settings.sentence_bytes
    of_block = Holding("a block", kept)
    copies = [Holding("its copy", kept)] * (model.device.type != "cpu")
    return {
        "device": [of_block, Holding("a batch", _batch(model, settings, sentences), bound=True)],
        "host": [*copies, Holding("its file", kept)],
        "disk": [Holding("vectors", len(sentences) * settings.sentence_bytes)],
    }


def settings_of(model: Model, asked: Mapping[str, Any]) -> ExtractSettings:
    """Return the settings of `extract_heads` for its arguments."""
    names = [*inspect.signature(ExtractSettings.checked).parameters][1:]
    return ExtractSettings.checked(model, **{name: asked[name] for name in names})


def shapes_of(
    model: Model, settings: ExtractSettings, sentences: Sentences
) -> Iterator[tuple[int, int]]:
    """Yield the rows and the width of every batch of an extraction."""
    return batch_shapes(
        sentences.store,
        settings.n_around(model),
        batch_tokens=settings.batch_tokens,
        block_tokens=settings.block_tokens_of(sentences, model.device.type),
    )


def _batch(model: Model, settings: ExtractSettings, sentences: Sentences) -> int:
    """Return what a batch takes while it is run, and its vectors, which are there together."""
    rows = max(rows for rows, _ in shapes_of(model, settings, sentences))
    width = sum(kept.width for _, kept in settings.places)
    itemsize = max(next(model.hf.parameters()).element_size(), FLOAT)
    more = len(settings.appended)
    running = batch_bytes(model, sentences.store, settings.batch_tokens, n_appended=more)
    return running + rows * width * itemsize

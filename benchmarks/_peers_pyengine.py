"""Ours: the trigger search of the whole model, and one layer's activations."""

import tempfile
from typing import Any

from torch import Tensor

import pyengine
from benchmarks._peers_common import Answer, Run, Setting

QUARTERS = 4  # sentences of a sequence


def model_activation(setting: Setting) -> Run:
    """Search with the model's own activation modules."""
    return _search(setting, "model")


def fused_activation(setting: Setting) -> Run:
    """Search with our kernel for the activation."""
    return _search(setting, "fused")


def every_sentence(setting: Setting) -> Run:
    """Search with one place per sentence."""
    search = _search(setting, "model", per="unit")
    return lambda ids: search(sentences(ids))


def above_zero(setting: Setting) -> Run:
    """Search among the coefficients above 0."""
    return _search(setting, "model", floor=0)


def sentences(ids: Tensor) -> Tensor:
    """Cut sequences into quarters: sentences of the length that they have in WikiText."""
    return ids.unflatten(1, (QUARTERS, -1)).flatten(0, 1)


def _search(setting: Setting, activation: str, **options: Any) -> Run:
    """Search all layers, in the very batches of the others, from the ids to the result."""
    scale, folder = setting.scale, tempfile.TemporaryDirectory()
    options = {"per": "token", "activation": activation, "cache_dir": folder.name} | options

    def run(ids: Tensor) -> Answer:
        found = pyengine.trigger_examples(
            setting.model,
            pyengine.Corpus.from_token_ids([*ids.numpy()]),
            scale.k,
            batch_tokens=scale.batch * scale.length,
            block_tokens=ids.numel(),
            **options,
        )
        places = (found.units * ids.shape[1] + found.positions).masked_fill(found.units < 0, -1)
        return Answer.of_places(found.scores.flatten(0, 1), places.flatten(0, 1))

    return run


def one_layer(setting: Setting) -> Run:
    """Cache one layer's coefficients, batch by batch."""
    name = setting.hook_names[setting.middle]

    def run(ids: Tensor) -> Answer:
        for batch in setting.batches(ids):
            inputs = batch.inputs["input_ids"]
            _, cache = pyengine.run_with_cache(setting.model, inputs, name, return_type=None)
        return Answer(cache[name].cpu())

    return run

"""Ours: the trigger search of the whole model, and one layer's activations."""

import tempfile

from torch import Tensor

import pyengine
from benchmarks._peers_common import Answer, Run, Setting


def model_activation(setting: Setting) -> Run:
    """Search with the model's own activation modules."""
    return _search(setting, "model")


def fused_activation(setting: Setting) -> Run:
    """Search with our kernel for the activation."""
    return _search(setting, "fused")


def _search(setting: Setting, activation: str) -> Run:
    """Search all layers, in the very batches of the others, from the ids to the result."""
    scale, folder = setting.scale, tempfile.TemporaryDirectory()

    def run(ids: Tensor) -> Answer:
        found = pyengine.trigger_examples(
            setting.model,
            pyengine.Corpus.from_token_ids([*ids.numpy()]),
            scale.k,
            per="token",
            activation=activation,
            batch_tokens=scale.batch * scale.length,
            block_tokens=ids.numel(),
            cache_dir=folder.name,
        )
        best = found.units * scale.length + found.positions
        return Answer(found.scores.flatten(0, 1), best.flatten(0, 1))

    return run


def one_layer(setting: Setting) -> Run:
    """Cache one layer's coefficients, batch by batch."""
    name = setting.hook_names[setting.middle]

    def run(ids: Tensor) -> Answer:
        for batch in setting.batches(ids):
            inputs = batch.inputs["input_ids"]
            _, cache = pyengine.run_with_cache(setting.model, inputs, name, return_type=None)
        return Answer(cache[name])

    return run

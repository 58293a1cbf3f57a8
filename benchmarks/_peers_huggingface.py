"""Plain Hugging Face: bare forward passes, and forward hooks such as anybody writes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import pyengine
from benchmarks._peers_common import Answer, Run, RunningTopK, Setting

Hook = Callable[[int, Tensor], None]


def body(setting: Setting) -> Run:
    """Run the model without its output head."""
    return _forward(setting, setting.body)


def lm(setting: Setting) -> Run:
    """Run the model with its output head."""
    return _forward(setting, setting.hf)


def _forward(setting: Setting, model: torch.nn.Module) -> Run:
    @torch.inference_mode()
    def run(ids: Tensor) -> None:
        for batch in setting.batches(ids):
            model(**batch.inputs)

    return run


def hooks_store(setting: Setting) -> Run:
    """Keep the coefficients of every layer until the next batch."""

    @torch.inference_mode()
    def run(ids: Tensor) -> None:
        stored: dict[int, Tensor] = {}
        with hooked(setting, stored.__setitem__):
            for batch in setting.batches(ids):
                setting.body(**batch.inputs)

    return run


def hooks_topk(setting: Setting) -> Run:
    """Rank in the hooks, the textbook way."""

    @torch.inference_mode()
    def run(ids: Tensor) -> Answer:
        topk = RunningTopK(setting)
        for batch in setting.batches(ids):
            with hooked(setting, partial(topk.add, first=batch.first)):
                setting.body(**batch.inputs)
        return topk.answer()

    return run


def hooks_streaming(setting: Setting) -> Run:
    """Rank in the hooks with our reducer, one per layer."""
    scale = setting.scale

    @torch.inference_mode()
    def run(ids: Tensor) -> Answer:
        reducers: dict[int, pyengine.StreamingTopK] = {}
        for batch in setting.batches(ids):
            rows = batch.inputs["input_ids"]
            units = torch.arange(batch.first, batch.first + len(rows), device=rows.device)

            def update(layer: int, acts: Tensor, units: Tensor = units) -> None:
                if layer not in reducers:
                    reducers[layer] = pyengine.StreamingTopK(
                        scale.k, acts.shape[-1], scale.length, per="token"
                    )
                reducers[layer].update(setting.content(acts), units)

            with hooked(setting, update):
                setting.body(**batch.inputs)
        found = [reducers[layer].compute() for layer in sorted(reducers)]
        best = [each.units * scale.length + each.positions for each in found]
        return Answer(torch.cat([each.scores for each in found]).cpu(), torch.cat(best).cpu())

    return run


def one_layer(setting: Setting) -> Run:
    """Take one layer's coefficients, and leave the forward pass by an exception."""

    @torch.inference_mode()
    def run(ids: Tensor) -> Answer:
        kept: list[Tensor] = []

        def take(layer: int, acts: Tensor) -> None:
            if layer == setting.middle:
                kept[:] = [acts]
                raise _Enough

        with hooked(setting, take):
            for batch in setting.batches(ids):
                try:
                    setting.body(**batch.inputs)
                except _Enough:
                    continue
        return Answer(kept[0].cpu())

    return run


class _Enough(Exception):
    """Leaves a forward pass."""


@contextmanager
def hooked(setting: Setting, function: Hook) -> Iterator[None]:
    """Call a function with (layer, coefficients) in every layer."""
    handles = [
        setting.body.get_submodule(path).register_forward_pre_hook(
            lambda _module, inputs, layer=layer: function(layer, inputs[0])
        )
        for layer, path in enumerate(setting.down_projections(setting.body))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fraction_run(setting: Setting) -> float:
    """Return the share of the body's FLOP in the blocks that are begun to cache the middle layer.

    Products and attention count, as torch counts them; embeddings, norms and non-linearities do
    not.
    """
    ids = setting.ids[: setting.scale.batch]
    return _flop(_through_middle(setting), ids) / _flop(body(setting), ids)


def _through_middle(setting: Setting) -> Run:
    """Run the body to the end of its middle block."""
    path = setting.down_projections(setting.body)[setting.middle]
    block = re.match(r".*?\.\d+(?=\.)", path)
    assert block is not None, path

    def stop(*_: Any) -> None:
        raise _Enough

    def run(ids: Tensor) -> Answer:
        handle = setting.body.get_submodule(block.group()).register_forward_hook(stop)
        with suppress(_Enough):
            for batch in setting.batches(ids):
                setting.body(**batch.inputs)
        handle.remove()
        return Answer(torch.zeros(0))

    return run


def _flop(run: Run, ids: Tensor) -> int:
    # The CPU's attention is not in torch's table.
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        run(ids)
    return counter.get_total_flops()


def _attention_flop(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    return sdpa_flop_count(query, key, value)

"""The forward pass with taps on the coefficients of the feed-forward layers.

The caller's model is never touched: see `pyengine.forward`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyengine import ops
from pyengine.batches import Batch
from pyengine.families import Layer
from pyengine.forward import Forward, to_device
from pyengine.fused import fuse
from pyengine.models import Model

VALUES = ("post", "pre")
ACTIVATION_MODES = ("fused", "model")

# Called once per tapped layer and batch, inside the forward pass.
Sink = Callable[[int, ops.Captured, ops.Rows], None]


class _StopForwardError(Exception):
    """Raised by the last tapped layer: nothing above it needs to be computed."""


class Capture:
    """Runs batches through a model and hands each tapped FFN activation to a sink.

    Args:
        model: the model; it is copied structurally, its parameters are shared.
        layers: indices of the layers to tap.
        sink: receives `(layer index, captured, rows)`; `captured.values` is [B, T, d_ff].
        value: `post`, the input of the down-projection, or `pre`, before the non-linearity
            (the gate's pre-activation in a gated FFN).
        activation: `fused`, our kernel with the model's formula, or `model`, the model's own
            modules (bit-equal to Hugging Face).
        signs: which maxima to take per block: (1,), (-1,) or (1, -1).

    Raises:
        PyengineError: if the model's non-linearity has no fused kernel.
    """

    def __init__(
        self,
        model: Model,
        layers: Sequence[int],
        sink: Sink,
        *,
        value: str = "post",
        activation: str = "fused",
        signs: tuple[int, ...] = (1,),
    ) -> None:
        self._model = model
        self._sink = sink
        self._value = value
        self._signs = signs
        self._tapped = frozenset(layers)
        self._last = max(layers)
        self._rows: dict[str, ops.Rows] = {}
        self._forward = Forward(model)
        for layer in model.layers[: self._last + 1]:
            if activation == "fused":
                # Untapped layers too: a limit on the layers must not change the bits.
                fuse(model, self._forward.body, layer, self._apply)
            elif layer.index in self._tapped:
                self._tap_model(layer)

    @torch.inference_mode()
    def run(self, batch: Batch, decoder: Batch | None = None) -> None:
        """Run one batch up to the last tapped layer.

        Args:
            batch: the units as the model's first stack reads them.
            decoder: the teacher-forced decoder input, for encoder-decoders only.
        """
        stacks, device = self._model.family.stacks, self._model.device
        self._rows[stacks[0].name] = ops.Rows(to_device(batch.ids, device))
        if decoder is not None:
            self._rows[stacks[1].name] = ops.Rows(to_device(decoder.ids, device))
        try:
            self._forward.run(batch, decoder)
        except _StopForwardError:
            return
        finally:
            self._rows.clear()

    def _apply(self, layer: Layer, pre: Tensor, act: str, up: Tensor | None) -> Tensor:
        reuse = self._value == "post"
        return self._capture(layer, pre, act=act, up=up, value=self._value, reuse=reuse).out

    def _capture(self, layer: Layer, pre: Tensor, **how: Any) -> ops.Captured:
        rows = self._rows[layer.stack.name]
        if layer.index not in self._tapped:
            rows = ops.Rows(torch.full_like(rows.ids, -1))  # nothing competes
            return ops.ffn_capture(pre, rows, signs=self._signs, **how)
        captured = ops.ffn_capture(pre, rows, signs=self._signs, **how)
        self._sink(layer.index, captured, rows)
        if layer.index == self._last:
            raise _StopForwardError
        return captured

    def _tap_model(self, layer: Layer) -> None:
        part = layer.stack.value if self._value == "post" else layer.stack.activation

        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._capture(layer, inputs[0], act="identity")

        layer.module(self._forward.body, part).register_forward_pre_hook(hook)

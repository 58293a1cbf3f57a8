"""The forward pass with taps on the feed-forward layers.

Capture runs on a *structural copy* of the caller's model: new modules, the same parameters.
The caller's model keeps its modules, hooks and mode; nothing has to be undone.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from pyengine import ops
from pyengine.batches import Batch
from pyengine.errors import PyengineError
from pyengine.families import FUSED_ACTIVATIONS, Layer
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
        self._body = _structural_copy(model.body)
        for layer in model.layers[: self._last + 1]:
            if activation == "fused":
                # Untapped layers too: a limit on the layers must not change the bits.
                self._tap_fused(layer)
            elif layer.index in self._tapped:
                self._tap_model(layer)

    @torch.inference_mode()
    def run(self, batch: Batch, decoder: Batch | None = None) -> None:
        """Run one batch up to the last tapped layer.

        Args:
            batch: the units as the model's first stack reads them.
            decoder: the teacher-forced decoder input, for encoder-decoders only.
        """
        device = self._model.device
        try:
            if decoder is None:
                self._run_single(batch, device)
            else:
                self._run_encoder_decoder(batch, decoder, device)
        except _StopForwardError:
            return
        finally:
            self._rows.clear()

    def _run_single(self, batch: Batch, device: torch.device) -> None:
        family = self._model.family
        stack = family.stacks[0]
        self._rows[stack.name] = _rows(batch, device)
        # Right padding lies after every content token, so a causal model needs no mask.
        mask = None if stack.causal else _padding_mask(batch, device)
        body = self._body.encoder if family.encoder_decoder else self._body
        extra = {"use_cache": False} if stack.causal else {}
        body(  # type: ignore[operator]
            input_ids=_to(batch.input_ids, device), attention_mask=mask, **extra
        )

    def _run_encoder_decoder(self, batch: Batch, decoder: Batch, device: torch.device) -> None:
        self._rows["encoder"] = _rows(batch, device)
        self._rows["decoder"] = _rows(decoder, device)
        mask = _padding_mask(batch, device)
        encoded = self._body.encoder(  # type: ignore[operator]
            input_ids=_to(batch.input_ids, device), attention_mask=mask
        )
        self._body.decoder(  # type: ignore[operator]
            input_ids=_to(decoder.input_ids, device),
            encoder_hidden_states=encoded[0],
            encoder_attention_mask=mask,
            use_cache=False,
        )

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

    def _tap_fused(self, layer: Layer) -> None:
        act = _fused_name(self._model, layer)
        if layer.up(self._body) is None:
            _replace(self._body, layer, layer.stack.activation, _FusedActivation(self, layer, act))
        else:
            _replace(self._body, layer, layer.stack.ffn, _FusedGatedFFN(self, layer, act))

    def _tap_model(self, layer: Layer) -> None:
        part = layer.stack.value if self._value == "post" else layer.stack.activation

        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._capture(layer, inputs[0], act="identity")

        layer.module(self._body, part).register_forward_pre_hook(hook)


class _FusedActivation(nn.Module):
    """Stands where the model's non-linearity stood."""

    def __init__(self, capture: Capture, layer: Layer, act: str) -> None:
        super().__init__()
        self._run = lambda pre: capture._capture(
            layer, pre, act=act, value=capture._value, reuse=capture._value == "post"
        )

    def forward(self, pre: Tensor) -> Tensor:
        return self._run(pre).out


class _FusedGatedFFN(nn.Module):
    """Stands where a gated feed-forward module stood: value(act(gate(x)) * up(x))."""

    def __init__(self, capture: Capture, layer: Layer, act: str) -> None:
        super().__init__()
        self.gate = layer.key(capture._body)
        self.up = layer.up(capture._body)
        self.value = layer.module(capture._body, layer.stack.value)
        self._run = lambda pre, up: capture._capture(
            layer, pre, act=act, up=up, value=capture._value, reuse=capture._value == "post"
        )

    def forward(self, hidden: Tensor) -> Tensor:
        out = self._run(self.gate(hidden), self.up(hidden)).out  # type: ignore[misc]
        # T5 in float16 keeps its down-projection in float32.
        weight: Any = self.value.weight
        return self.value(out.to(weight.dtype))


def _structural_copy(body: nn.Module) -> nn.Module:
    shared: dict[int, Any] = {id(p): p for p in body.parameters()}
    shared |= {id(b): b for b in body.buffers()}
    copied: Any = copy.deepcopy(body, shared).eval()
    # Padding needs no mask here; with a pad token transformers would look for it in every batch
    # (and make the GPU wait) only to warn.
    copied.config.pad_token_id = None
    return copied


def _replace(body: nn.Module, layer: Layer, part: str, module: nn.Module) -> None:
    parent, _, name = part.format(layer.block).rpartition(".")
    setattr(body.get_submodule(parent), name, module)


def _fused_name(model: Model, layer: Layer) -> str:
    """Name the kernel formula of a layer's non-linearity, checking that it is the usual one."""
    name = getattr(model.config, model.family.activation_name)
    if name not in FUSED_ACTIVATIONS:
        raise PyengineError(
            f"no fused kernel for the activation {name!r}; use activation='model' "
            f"(known: {', '.join(FUSED_ACTIVATIONS)})"
        )
    own, usual = layer.module(model.body, layer.stack.activation), ACT2FN[name]
    if type(own) is not type(usual):
        raise PyengineError(
            f"layer {layer.index} computes {type(own).__name__}, not {name!r} as its configuration "
            "says; use activation='model'"
        )
    return FUSED_ACTIVATIONS[name]


def _rows(batch: Batch, device: torch.device) -> ops.Rows:
    return ops.Rows(_to(batch.ids, device))


def _padding_mask(batch: Batch, device: torch.device) -> Tensor | None:
    """Return the [B, T] mask, None where nothing is padded (attention is then faster)."""
    return None if batch.attention_mask.all() else _to(batch.attention_mask, device)


def _to(array: Any, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor

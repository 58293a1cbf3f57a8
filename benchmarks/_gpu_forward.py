"""The forward pass that the search's overhead is measured against."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

import pyengine
from pyengine.batches import Batch
from pyengine.fused import formula_of


class _StopError(Exception):
    """Raised before the last down-projection, where a search of all layers stops, too."""


class FusedForward:
    """A model's forward with torch's fused activation, called as the search calls it.

    The same inputs, masks and last operation as `pyengine.capture.Capture`, without its kernels:
    what is left of the difference in time is the price of the search.
    """

    def __init__(self, model: pyengine.Model) -> None:
        self._model = model
        body: Any = copy.deepcopy(model.body).eval()
        body.config.pad_token_id = None
        self._body = body
        for layer in model.layers:
            act = formula_of(layer.module(body, layer.stack.activation))
            if act == "gelu_tanh" and layer.up(self._body) is None:
                path = layer.stack.activation.format(layer.block)
                self._body.set_submodule(path, nn.GELU("tanh"))
        last = model.layers[-1]
        last.module(self._body, last.stack.value).register_forward_pre_hook(_stop)

    @torch.inference_mode()
    def run(self, batch: Batch, decoder: Batch | None = None) -> None:
        """Run a batch up to the last activation."""
        try:
            self._run(batch, decoder)
        except _StopError:
            return

    def _run(self, batch: Batch, decoder: Batch | None) -> None:
        input_ids = self._to(batch.input_ids)
        if decoder is None and self._model.family.causal:
            self._body(input_ids=input_ids, use_cache=False)
            return
        mask = None if batch.attention_mask.all() else self._to(batch.attention_mask)
        if decoder is None:
            self._body(input_ids=input_ids, attention_mask=mask)
            return
        encoded = self._body.encoder(input_ids=input_ids, attention_mask=mask)
        self._body.decoder(
            input_ids=self._to(decoder.input_ids),
            encoder_hidden_states=encoded[0],
            encoder_attention_mask=mask,
            use_cache=False,
        )

    def _to(self, array: Any) -> Tensor:
        tensor, device = torch.from_numpy(array), self._model.device
        if device.type == "cuda":
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor


def _stop(_module: nn.Module, _inputs: Any) -> None:
    raise _StopError

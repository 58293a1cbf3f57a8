"""What goes into and out of every feed-forward layer, at chosen positions only."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyengine import ops
from pyengine.batches import Batch
from pyengine.families import Stack
from pyengine.forward import Forward, to_device
from pyengine.fused import fuse
from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.sites import block_prefix, sites_of
from pyengine.taps import attach


class FFNSite(NamedTuple):
    """One feed-forward layer at n chosen positions, in the dtypes of the model.

    The layer's output is residual + output (BERT: before the layer's output norm).

    Attributes:
        layer: the layer.
        residual: [n, d_model], the residual stream that the FFN's output is added to.
        output: [n, d_model], the FFN's output, bias included.
        coefficients: [n, d_ff], the input of the down-projection.
    """

    layer: Layer
    residual: Tensor
    output: Tensor
    coefficients: Tensor


class FFNSites:
    """Runs batches through a model and hands on its feed-forward layers, position by position.

    Args:
        model: the model; it is copied structurally, its parameters are shared.
        layers: indices of the layers to tap.
        observe: called with a `FFNSite` per tapped layer and batch, in layer order, inside the
            forward pass; what it keeps is all that is kept.
        activation: `fused` or `model`, as in `pyengine.capture.Capture`.

    Raises:
        PyengineError: if the model's non-linearity has no fused kernel.
    """

    def __init__(
        self,
        model: Model,
        layers: Sequence[int],
        observe: Callable[[FFNSite], None],
        *,
        activation: str = "fused",
    ) -> None:
        self._model = model
        self._observe = observe
        self._forward = Forward(model)
        self._at: dict[str, tuple[Tensor, Tensor]] = {}
        self._seen: dict[str, Tensor] = {}
        for index in layers:
            self._tap(model.layers[index])
        if activation == "fused":
            for layer in model.layers:  # all of them: a limit on the layers changes no bits
                fuse(model, self._forward.body, layer, _activate)

    @torch.inference_mode()
    def run(self, batch: Batch, decoder: Batch | None, rows: Any, positions: Any) -> None:
        """Run one batch.

        Args:
            batch: the units as the model's first stack reads them.
            decoder: the teacher-forced decoder input, for encoder-decoders only; without it only
                the encoder runs.
            rows: int64 [n], row of the batch of each chosen position.
            positions: int64 [n], content token of that row's unit.
        """
        stacks, device = self._model.family.stacks, self._model.device
        row = to_device(rows, device)
        for stack, part in zip(stacks, (batch, decoder), strict=False):
            if part is not None:
                self._at[stack.name] = (row, to_device(positions + part.first, device))
        try:
            self._forward.run(batch, decoder)
        finally:
            self._at.clear()
            self._seen.clear()

    def _tap(self, layer: Layer) -> None:
        body, stack = self._forward.body, layer.stack

        def take(name: str, tensor: Tensor) -> None:
            self._seen[name] = tensor[self._at[stack.name]]

        def take_last(tensor: Tensor) -> None:
            take("output", tensor)
            self._observe(FFNSite(layer, **self._seen))
            self._seen.clear()

        prefix, sites = block_prefix(self._model, layer), sites_of(self._model)
        for name, tap in (
            (_residual(stack), partial(take, "residual")),
            ("mlp.hook_post", partial(take, "coefficients")),
            ("hook_mlp_out", take_last),
        ):
            attach(body, sites[f"{prefix}.{name}"], tap)


def _residual(stack: Stack) -> str:
    """Name what the FFN's output is added to: in BERT the stream after its norm."""
    if stack.final_norm is None:
        return "hook_normalized_resid_mid"
    return "hook_resid_mid_cross" if len(stack.attention) > 1 else "hook_resid_mid"


def _activate(layer: Layer, pre: Tensor, act: str, up: Tensor | None) -> Tensor:
    nothing = ops.Rows(torch.full(pre.shape[:2], -1, dtype=torch.int64, device=pre.device))
    return ops.ffn_capture(pre, nothing, act=act, up=up, reuse=True).out

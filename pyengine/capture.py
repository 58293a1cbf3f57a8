"""The forward pass with taps on sites: their activations, and where large ones can be.

The caller's model is never touched: see `pyengine.forward`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyengine import ops
from pyengine.batches import Batch
from pyengine.competition import EVERY_TOKEN, Competition, Reading
from pyengine.errors import PyengineError
from pyengine.forward import Forward
from pyengine.fused import check_untouched, fuse
from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.sites import Site, coefficient_site
from pyengine.taps import StopForwardError, attach

VALUES = ("post", "pre")
ACTIVATION_MODES = ("fused", "model")


class Maxima(NamedTuple):
    """Which block maxima are taken of a site.

    Attributes:
        competition: over which positions; None: over none, which costs nothing.
        signs: (1,), (-1,) or (1, -1).
    """

    competition: Competition | None = EVERY_TOKEN
    signs: tuple[int, ...] = (1,)


_NO_MAXIMA = Maxima(None)
_AS_IT_IS = {"act": "identity"}

# Called once per site and batch, inside the forward pass; `captured.values` is [B, T, n].
Sink = Callable[[Site, ops.Captured, Reading], None]


def coefficient_sites(model: Model, layers: Iterable[int], value: str = "post") -> list[Site]:
    """Return the sites of some layers' coefficients: `post`, or `pre`, before the non-linearity."""
    return [coefficient_site(model, layer, value) for layer in layers]


class Capture:
    """Runs batches through a model and hands the activations of some sites to a sink.

    Args:
        model: the model; it is copied structurally, its parameters are shared.
        sites: what to tap, and which block maxima to take of it. Of `BTHD` sites the heads are
            laid side by side. Their first axes must be [B, T], and the body must compute them.
        sink: receives `(site, captured, reading)`.
        activation: `fused`: our kernel, with the model's formula, computes the coefficients in
            every layer, whatever is tapped, so that this changes no bits; or `model`, the model's
            own modules (bit-equal to Hugging Face).

    Raises:
        PyengineError: with `fused`, if the model's non-linearity has no fused kernel, or where
            hooks of the caller's would be lost.
    """

    def __init__(
        self,
        model: Model,
        sites: Mapping[Site, Maxima],
        sink: Sink,
        *,
        activation: str = "fused",
    ) -> None:
        self._model, self._sink = model, sink
        self._sites = dict(sites)
        self._readings: dict[str, Reading] = {}
        self._pending: set[Site] = set()
        self._forward = Forward(model)
        fused = self._coefficients() if activation == "fused" else {}
        for site in self._sites:
            if site not in fused:
                attach(self._forward.body, site, partial(self._take_tapped, site))
        if activation == "fused":
            at = {coordinates: site for site, coordinates in fused.items()}
            for layer in model.layers:
                before, after = (at.get((layer.index, value)) for value in ("pre", "post"))
                if after is not None:
                    check_untouched(model, layer)
                fuse(model, self._forward.body, layer, partial(self._apply, before, after))

    @torch.inference_mode()
    def run(self, batch: Batch, decoder: Batch | None = None) -> None:
        """Run one batch, up to the last site that is tapped.

        Args:
            batch: the units as the model's first stack reads them.
            decoder: the teacher-forced decoder input, for encoder-decoders only.

        Raises:
            PyengineError: if the forward pass does not come to a site.
        """
        for stack, part in zip(self._model.family.stacks, (batch, decoder), strict=False):
            if part is not None:
                self._readings[stack.name] = Reading(part, self._model.device)
        self._pending = set(self._sites)
        try:
            self._forward.run(batch, decoder)
        except StopForwardError:
            return
        finally:
            self._readings.clear()
        if self._pending:
            names = ", ".join(sorted(site.name for site in self._pending))
            raise PyengineError(f"the forward pass does not come to {names}")

    def _coefficients(self) -> dict[Site, tuple[int, str]]:
        """Return the sites that the fused kernel computes: their layers, and `pre` or `post`."""
        every = range(self._model.n_layers)
        return {
            site: (layer, value)
            for value in VALUES
            for layer, site in zip(every, coefficient_sites(self._model, every, value), strict=True)
            if site in self._sites
        }

    def _apply(
        self,
        before: Site | None,
        after: Site | None,
        layer: Layer,
        pre: Tensor,
        act: str,
        up: Tensor | None,
    ) -> Tensor:
        stack = layer.stack.name
        if before is None:
            return self._take(after, stack, pre, act=act, up=up, reuse=True)
        out = self._take(before, stack, pre, act=act, up=up, value="pre")
        return out if after is None else self._take(after, stack, out, act="identity")

    def _take_tapped(self, site: Site, value: Tensor) -> None:
        # Rows share embeddings of positions.
        flat = value.flatten(2).expand(self._readings[site.positions].n_rows, -1, -1)
        self._take(site, site.positions, flat, act="identity")

    def _take(self, site: Site | None, stack: str, tensor: Tensor, **how: Any) -> Tensor:
        """Capture a tensor, hand it to the sink if it is tapped, and stop after the last."""
        reading = self._readings[stack]
        competition, signs = _NO_MAXIMA if site is None else self._sites[site]
        if competition is None and how == _AS_IT_IS:
            captured = _untouched(tensor)
        else:
            captured = ops.ffn_capture(tensor, reading.rows(competition), signs=signs, **how)
        if site is not None:
            self._sink(site, captured, reading)
            self._pending.remove(site)
            if not self._pending:
                raise StopForwardError
        return captured.out


def _untouched(values: Tensor) -> ops.Captured:
    """Hand on values of any dtype among which nothing competes."""
    least = values.new_full((1, 1, values.shape[-1]), -torch.inf)
    return ops.Captured(values, values, least, values.new_zeros(1, dtype=torch.int64))

"""What decides the result of `ffn_predictions`, checked."""

from dataclasses import dataclass, replace
from typing import Any

from pyengine.capture import ACTIVATION_MODES
from pyengine.checks import check_choice, check_count
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS
from pyengine.errors import PyengineError
from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.positions import POSITIONS
from pyengine.readout import HEADS, Readout, readout

MODES = ("layer", "value")
FINAL_NORM = ("on", "off")

# By mode: the defaults of `final_norm` and `head`.
READOUT_DEFAULTS = {"layer": ("on", "full"), "value": ("off", "embedding")}

# A block is what a kill costs, and its rows are in memory: fewer tokens where they take longer or
# give more rows, fewest where every row has lists over all of d_ff.
SLOW_BLOCK_TOKENS = 32_768
ALL_VALUES_BLOCK_TOKENS = 8192


@dataclass(frozen=True)
class PredictionSettings:
    """What decides the result. The attributes are the arguments of `ffn_predictions`; None where
    a default is still to be filled in by `resolved`."""

    mode: str = "layer"
    position: str = "random"
    seed: int = 0
    layers: tuple[int, ...] | None = None
    final_norm: str | None = None
    head: str | None = None
    n: int = 10
    all_values: bool = False
    output_dist: bool = False
    bos: bool = False
    activation: str | None = None
    batch_tokens: int | None = None
    block_tokens: int | None = None

    def resolved(self, model: Model) -> "PredictionSettings":
        """Check the settings and fill in the defaults for a model.

        Raises:
            PyengineError: naming the first setting that cannot be.
        """
        check_choice("mode", self.mode, MODES)
        check_choice("position", self.position, POSITIONS)
        norm, head = READOUT_DEFAULTS[self.mode]
        device = model.device.type
        full = replace(
            self,
            layers=self.layers or tuple(range(model.n_layers)),
            final_norm=self.final_norm or norm,
            head=self.head or head,
            activation=_activation(self.activation, model),
            batch_tokens=BATCH_TOKENS[device] if self.batch_tokens is None else self.batch_tokens,
            block_tokens=self._block_tokens(device),
        )
        full._check(model)
        return full

    def _block_tokens(self, device: str) -> int:
        if self.block_tokens is not None:
            return self.block_tokens
        if self.all_values:
            return ALL_VALUES_BLOCK_TOKENS
        slow = device == "cpu" or self.position == "all"
        return SLOW_BLOCK_TOKENS if slow else BLOCK_TOKENS[device]

    def _check(self, model: Model) -> None:
        check_choice("final_norm", str(self.final_norm), FINAL_NORM)
        check_choice("head", str(self.head), HEADS)
        check_count("batch_tokens", self.batch_tokens)
        check_count("block_tokens", self.block_tokens)
        if not 0 <= self.seed < 2**64:
            raise PyengineError(f"seed must be from 0 to 2**64 - 1, got {self.seed}")
        # Both modes read memories so; an embedding that cannot is refused here.
        readout(model, model.layers[0], final_norm=False, head="embedding")
        if self.mode == "layer":
            if self.all_values:
                raise PyengineError("all_values=True needs mode='value'")
            return
        if not 1 <= self.n <= model.d_ff:
            raise PyengineError(f"n must be from 1 to {model.d_ff} (d_ff), got {self.n}")
        if (self.final_norm, self.head) != READOUT_DEFAULTS["value"]:
            raise PyengineError(
                "mode='value' reads every memory through the bare embedding (final_norm='off', "
                "head='embedding'): a norm or a bias would make what a value says depend on its "
                "coefficient"
            )

    def readout(self, model: Model, layer: int) -> Readout:
        """Return how the vectors of a layer are read."""
        norm = self.final_norm == "on"
        return readout(model, model.layers[layer], final_norm=norm, head=str(self.head))

    def question(self) -> dict[str, Any]:
        """The settings that define the result mathematically."""
        names = ("mode", "position", "final_norm", "head", "all_values", "output_dist", "bos")
        return {name: getattr(self, name) for name in names} | {
            "layers": list(self.layers or ()),
            # None where it has no influence: a change of it is then no difference.
            "seed": self.seed if self.position == "random" else None,
            "n": self.n if self.mode == "value" else None,
        }

    def numerics(self) -> dict[str, Any]:
        """The settings that only move the last bits."""
        names = ("activation", "batch_tokens", "block_tokens")
        return {name: getattr(self, name) for name in names}


def final_readout(model: Model, layer: Layer) -> Readout:
    """Return how the model itself reads the last layer of a stack.

    Final norm and output head; where the model has none, its token embedding.
    """
    try:
        return readout(model, layer, final_norm=True)
    except PyengineError:
        return readout(model, layer, final_norm=True, head="embedding")


def _activation(wanted: str | None, model: Model) -> str:
    if wanted is None:
        return "model" if model.dtype == "float64" else "fused"
    check_choice("activation", wanted, ACTIVATION_MODES)
    if wanted == "fused" and model.dtype == "float64":
        raise PyengineError(
            "activation='fused' computes in float32 at most; use activation='model' in float64"
        )
    return wanted

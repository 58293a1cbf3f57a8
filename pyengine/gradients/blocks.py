"""One transformer block, part by part, differentiable: what comes after a layer is made of these.

::

    mid = stream + attention(norm(stream))      z = mid + FFN(norm(mid))      next stream = z

BERT normalises after its additions instead: mid = norm(stream + attention(stream)),
z = mid + FFN(mid), next stream = norm(z). z is what the paths of integration go through.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from pyengine.fused import formula_of
from pyengine.gradients.attention import Attention, attentions_of
from pyengine.layers import Layer
from pyengine.models import Model

# One kernel, forward and backward, where transformers composes several.
_FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
    "silu": nn.functional.silu,
}


class Block:
    """A block of a structural copy of a model.

    Attributes:
        layer: which one.
        attentions: self-attention, then T5's decoder's cross-attention.
        activation: the non-linearity of the FFN.
    """

    def __init__(self, model: Model, body: nn.Module, layer: Layer) -> None:
        stack = layer.stack
        self.layer = layer
        self.attentions: list[Attention] = attentions_of(model, body, layer)
        self.activation = _activation(layer.module(body, stack.activation))
        self._norms = [layer.module(body, path) for path in stack.norms]
        self._pre_norm = stack.final_norm is not None
        self._key = layer.key(body)
        self._up = layer.up(body)
        self._value: Any = layer.module(body, stack.value)

    @property
    def bias(self) -> Tensor | None:
        """[d_model], what the down-projection adds; None where it has no bias."""
        bias: Tensor | None = self._value.bias
        return None if bias is None else bias.detach()

    def before_attention(self, stream: Tensor, index: int = 0) -> Tensor:
        """Return what an attention reads."""
        normalised: Tensor = self._norms[index](stream) if self._pre_norm else stream
        return normalised

    def add_attention(self, stream: Tensor, context: Tensor, index: int = 0) -> Tensor:
        """Return the stream after an attention."""
        added = stream + self.attentions[index].out(context)
        normalised: Tensor = added if self._pre_norm else self._norms[index](added)
        return normalised

    def add_ffn(self, mid: Tensor) -> Tensor:
        """Return z, [..., d_model]."""
        x = self._norms[-1](mid) if self._pre_norm else mid
        coefficients = self.activation(self._key(x))
        if self._up is not None:
            coefficients = coefficients * self._up(x)
        return mid + self.write(coefficients)

    def write(self, coefficients: Tensor) -> Tensor:
        """Return the FFN's output for coefficients [..., d_ff], bias included."""
        # T5 in float16 keeps its down-projection in float32.
        written: Tensor = self._value(coefficients.to(self._value.weight.dtype))
        return written

    def leave(self, z: Tensor) -> Tensor:
        """Return the next block's stream."""
        normalised: Tensor = z if self._pre_norm else self._norms[-1](z)
        return normalised


def blocks_of(model: Model, body: nn.Module, stack_name: str) -> list[Block]:
    """Return the blocks of a stack, in order."""
    return [Block(model, body, layer) for layer in model.layers if layer.stack.name == stack_name]


def _activation(own: nn.Module) -> Callable[[Tensor], Tensor]:
    return _FORMULAS.get(formula_of(own) or "", own)

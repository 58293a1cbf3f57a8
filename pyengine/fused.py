"""Replacing a layer's non-linearity (a gated layer's whole feed-forward module) by our own code."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from pyengine.errors import PyengineError
from pyengine.layers import Layer
from pyengine.models import Model

# Hugging Face's activation names -> the formulas that our kernels implement. A configuration may
# use a name otherwise (openai-gpt's "gelu" is the tanh one): the type of the module is what counts.
FUSED_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
}
_FORMULAS = {type(ACT2FN[name]): formula for name, formula in FUSED_ACTIVATIONS.items()}

# (layer, input of the non-linearity, name of its formula, linear half of a gated FFN or None) ->
# the coefficients, act(pre) or act(pre) * up.
Apply = Callable[[Layer, Tensor, str, Tensor | None], Tensor]


def fuse(model: Model, body: nn.Module, layer: Layer, apply: Apply) -> None:
    """Have `apply` compute the coefficients of a layer of `body`, a structural copy of the model.

    Raises:
        PyengineError: if the model's non-linearity has no fused kernel, or carries hooks.
    """
    act = _fused_name(model, layer)
    _check_replaceable(model, layer)
    if layer.up(body) is None:
        _replace(body, layer, layer.stack.activation, _FusedActivation(layer, act, apply))
    else:
        _replace(body, layer, layer.stack.ffn, _FusedGatedFFN(body, layer, act, apply))


def check_untouched(model: Model, layer: Layer) -> None:
    """Refuse a layer whose coefficients hooks of the caller's may change after they are computed.

    Raises:
        PyengineError: naming the module with the hooks.
    """
    path = layer.stack.value.format(layer.block)
    if model.body.get_submodule(path)._forward_pre_hooks:
        raise _lost(path)


def _check_replaceable(model: Model, layer: Layer) -> None:
    """Refuse hooks of the caller's on modules that are replaced: they would not be called."""
    replaced = [layer.stack.activation]
    if layer.up(model.body) is not None:
        replaced.append(layer.stack.ffn)
    for part in replaced:
        path = part.format(layer.block)
        module = model.body.get_submodule(path)
        if module._forward_hooks or module._forward_pre_hooks:
            raise _lost(path)


def _lost(path: str) -> PyengineError:
    return PyengineError(
        f"the model has hooks on {path}, which the fused activation would pass by; "
        "use activation='model'"
    )


class _FusedActivation(nn.Module):
    """Stands where the model's non-linearity stood."""

    def __init__(self, layer: Layer, act: str, apply: Apply) -> None:
        super().__init__()
        self._run = lambda pre: apply(layer, pre, act, None)

    def forward(self, pre: Tensor) -> Tensor:
        return self._run(pre)


class _FusedGatedFFN(nn.Module):
    """Stands where a gated feed-forward module stood: value(act(gate(x)) * up(x))."""

    def __init__(self, body: nn.Module, layer: Layer, act: str, apply: Apply) -> None:
        super().__init__()
        self.gate = layer.key(body)
        self.up = layer.up(body)
        self.value = layer.module(body, layer.stack.value)
        self._run = lambda pre, up: apply(layer, pre, act, up)

    def forward(self, hidden: Tensor) -> Tensor:
        out = self._run(self.gate(hidden), self.up(hidden))  # type: ignore[misc]
        # T5 in float16 keeps its down-projection in float32.
        weight: Any = self.value.weight
        return self.value(out.to(weight.dtype))


def _replace(body: nn.Module, layer: Layer, part: str, module: nn.Module) -> None:
    parent, _, name = part.format(layer.block).rpartition(".")
    setattr(body.get_submodule(parent), name, module)


def formula_of(activation: nn.Module) -> str | None:
    """Name the kernel formula that a non-linearity computes; None if there is no kernel for it."""
    return _FORMULAS.get(type(activation))


def _fused_name(model: Model, layer: Layer) -> str:
    own = layer.module(model.body, layer.stack.activation)
    if (formula := formula_of(own)) is None:
        raise PyengineError(
            f"no fused kernel for {type(own).__name__}, the activation of layer {layer.index}; use "
            f"activation='model' (known: {', '.join(FUSED_ACTIVATIONS)})"
        )
    return formula

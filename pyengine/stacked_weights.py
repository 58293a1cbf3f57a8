"""The weights of all layers in one tensor each, oriented as TransformerLens has them."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyengine.errors import PyengineError

if TYPE_CHECKING:
    from pyengine.models import Model


def w_in(model: "Model") -> Tensor:
    """Return the matrices into the non-linearity; of a gated FFN those beside the gates."""
    return torch.stack([_weight(module) for module in _inputs(model)])


def w_gate(model: "Model") -> Tensor:
    """Return the gates, [n_layers, d_model, d_ff].

    Raises:
        PyengineError: if there are none.
    """
    if any(layer.up(model.body) is None for layer in model.layers):
        raise PyengineError(f"the feed-forward layers of {model.name} have no gates")
    return torch.stack([_weight(layer.key(model.body)) for layer in model.layers])


def w_out(model: "Model") -> Tensor:
    """Return the down-projections; row n of a layer is its value n."""
    return torch.stack([_weight(module) for module in _outputs(model)])


def b_in(model: "Model") -> Tensor:
    """Return the biases of `w_in`, zeros where a model has none."""
    return torch.stack([_bias(module) for module in _inputs(model)])


def b_out(model: "Model") -> Tensor:
    """Return the biases of `w_out`, zeros where a model has none."""
    return torch.stack([_bias(module) for module in _outputs(model)])


def w_u(model: "Model") -> Tensor:
    """Return the unembedding, [d_model, vocab_size].

    Raises:
        PyengineError: for a model without output head.
    """
    return _weight(_head(model)).clone()


def b_u(model: "Model") -> Tensor:
    """Return the unembedding's bias, [vocab_size], zeros where a model has none."""
    return _bias(_head(model)).clone()


def _inputs(model: "Model") -> list[nn.Module]:
    return [layer.up(model.body) or layer.key(model.body) for layer in model.layers]


def _outputs(model: "Model") -> list[nn.Module]:
    return [layer.module(model.body, layer.stack.value) for layer in model.layers]


def _weight(module: Any) -> Tensor:
    """Return a projection's matrix as [inputs, outputs]."""
    weight: Tensor = module.weight.detach()
    return weight if type(module).__name__ == "Conv1D" else weight.t()


def _bias(module: Any) -> Tensor:
    bias = getattr(module, "bias", None)
    return _weight(module).new_zeros(_weight(module).shape[1]) if bias is None else bias.detach()


def _head(model: "Model") -> Any:
    try:
        return model.hf.get_submodule(model.family.unembedding)
    except AttributeError:
        raise PyengineError(f"{model.name} has no output head, hence no W_U") from None

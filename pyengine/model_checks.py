"""What is refused of a model before anything is computed with it."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pyengine.errors import PyengineError
from pyengine.models import Model


def check_modules(hf: PreTrainedModel) -> None:
    """Refuse what another tool has taken apart: its modules compute what they think best."""
    for name, module in hf.named_modules():
        kind = type(module)
        if kind.__module__.startswith("transformer_lens."):
            raise PyengineError(
                f"{name} is TransformerLens's {kind.__name__}: booting its bridge changed the "
                "model in place; load the model afresh"
            )
        if not isinstance(getattr(module, "weight", None), Tensor | None):
            raise PyengineError(f"{name} is a quantised {kind.__name__}; this is not supported")


def check_direction(model: Model) -> None:
    """Refuse BERT and the like as decoders: their attention would be taken for bidirectional."""
    if not model.family.stacks[-1].causal and getattr(model.config, "is_decoder", False):
        raise PyengineError(
            f"{model.name} is a {model.family.model_type} with is_decoder=True; this is not "
            "supported"
        )


def check_weights(model: Model) -> None:
    """Refuse NaN weights, and layers that differ in d_ff."""
    for name, parameter in model.hf.named_parameters():
        if parameter.device.type != "meta" and bool(torch.isnan(parameter).any()):
            raise PyengineError(f"parameter {name} of {model.name} holds NaN")
    values: list[Any] = [layer.module(model.body, layer.stack.value) for layer in model.layers]
    if len({value.weight.numel() for value in values}) != 1:
        raise PyengineError(f"the layers of {model.name} differ in d_ff; this is not supported")

"""What values write, the obvious way: transformers' modules and plain float64. Shares no code."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

# From the model with its head: where each stack keeps its value matrices, how many blocks it has,
# and the norm of a vector on its way to the head (norms after the additions: of each layer).
STACKS = {
    "gpt2": [("transformer.h.{}.mlp.c_proj", "n_layer", "transformer.ln_f")],
    "gpt_neo": [("transformer.h.{}.mlp.c_proj", "num_layers", "transformer.ln_f")],
    "openai-gpt": [("transformer.h.{}.mlp.c_proj", "n_layer", "transformer.h.{}.ln_2")],
    "bert": [
        (
            "bert.encoder.layer.{}.output.dense",
            "num_hidden_layers",
            "bert.encoder.layer.{}.output.LayerNorm",
        )
    ],
    "electra": [
        (
            "electra.encoder.layer.{}.output.dense",
            "num_hidden_layers",
            "electra.encoder.layer.{}.output.LayerNorm",
        )
    ],
    "t5": [
        (
            "encoder.block.{}.layer.1.DenseReluDense.wo",
            "num_layers",
            "encoder.final_layer_norm",
        ),
        (
            "decoder.block.{}.layer.2.DenseReluDense.wo",
            "num_decoder_layers",
            "decoder.final_layer_norm",
        ),
    ],
}


class Reading(NamedTuple):
    """One distribution per row over the whole vocabulary, float64.

    Attributes:
        logits: [R, V].
        order: int64 [R, V], tokens from the best on; equal logits: the lower id first.
        probs: [R, V].
        entropy: [R].
    """

    logits: Tensor
    order: Tensor
    probs: Tensor
    entropy: Tensor

    def ranks(self, tokens: Tensor) -> Tensor:
        """Return the places of tokens [R, n] in the order; -1 stays -1."""
        place = torch.empty_like(self.order)
        for row, order in enumerate(self.order):
            place[row, order] = torch.arange(len(order))
        return torch.where(tokens >= 0, place.gather(1, tokens.clamp(min=0)), -1)

    def probs_of(self, tokens: Tensor) -> Tensor:
        """Return the probabilities of tokens [R, n]; NaN for -1."""
        found = self.probs.gather(1, tokens.clamp(min=0))
        return torch.where(tokens >= 0, found, torch.nan)


def layer_places(hf: Any) -> list[tuple[str, str]]:
    """List (value matrix, norm) of every layer, T5's encoder before its decoder."""
    return [
        (value.format(block), norm.format(block))
        for value, count, norm in STACKS[hf.config.model_type]
        for block in range(getattr(hf.config, count))
    ]


def values(hf: Any, layer: int) -> Tensor:
    """Return the value vectors of a layer, float64 [d_ff, d_model]."""
    weight = hf.get_submodule(layer_places(hf)[layer][0]).weight.detach().double()
    return weight if hf.config.model_type in ("gpt2", "openai-gpt") else weight.t()


def read(hf: Any, layer: int, vectors: Tensor, *, final_norm: bool, head: str) -> Reading:
    """Read vectors [R, d_model] of a layer as distributions."""
    x = vectors.double()
    config = hf.config
    if final_norm:
        norm = hf.get_submodule(layer_places(hf)[layer][1])
        x = _rms_norm(x, norm) if config.model_type == "t5" else _layer_norm(x, norm)
    transform, output = _head(hf)
    bias = 0.0
    if transform is not None and head == "full":
        x = x @ transform.dense.weight.double().t() + transform.dense.bias.double()
        x = x * (1 + torch.erf(x / 2**0.5)) / 2
        x = _layer_norm(x, transform.LayerNorm)
        bias = output.bias.double()
    if config.model_type == "t5" and config.scale_decoder_outputs:
        x = x / config.d_model**0.5
    logits = (x @ output.weight.double().t() + bias).detach()
    probs = logits.softmax(1)
    entropy = -(probs * probs.log()).nansum(1)
    order = logits.sort(dim=1, descending=True, stable=True).indices
    return Reading(logits, order, probs, entropy)


def _head(hf: Any) -> tuple[Any, Any]:
    """Return what the head does before the output embedding, and that."""
    if hf.config.model_type == "bert":
        return hf.cls.predictions.transform, hf.cls.predictions.decoder
    if hf.config.model_type == "electra":
        return hf.generator_predictions, hf.generator_lm_head
    return None, hf.lm_head


def _layer_norm(x: Tensor, norm: Any) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
    return centred / scale * norm.weight.double() + norm.bias.double()


def _rms_norm(x: Tensor, norm: Any) -> Tensor:
    # transformers computes T5's factor in float32, whatever the dtype: that is the model.
    mean_square = x.float().square().mean(1, keepdim=True)
    return x * (mean_square + norm.variance_epsilon).rsqrt().double() * norm.weight.double()

"""Where early exits lead, on plain Hugging Face: what generation and passes are compared with."""

from typing import Any

import torch

from pyengine.models import Model
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.result import Shortcuts

SHARP = 3  # distributions that differ in how sure they are


def final_logits(model: Model, x: torch.Tensor) -> torch.Tensor:
    """Read [d] as plain Hugging Face does."""
    hf: Any = model.hf
    logits: torch.Tensor
    with torch.no_grad():
        if model.family.model_type == "bert":
            logits = hf.cls.predictions(x)
        elif model.family.model_type == "t5":
            logits = hf.lm_head(hf.decoder.final_layer_norm(x) * x.shape[-1] ** -0.5)
        else:
            logits = hf.lm_head(hf.transformer.ln_f(x))
    return logits


def first_exit(
    model: Model, shortcuts: Shortcuts, states: torch.Tensor, t: int, lam: float, kind: str = "mat"
) -> tuple[int, int]:
    """Go up x_0 … x_L, [L + 1, d], of one position; return the token and the layer."""
    lengths = shortcuts.validation().positions
    shift = int(model.family.encoder_decoder)
    mean_length = float((lengths + shift + 1).double().mean())
    n_layers = len(states) - 1
    for layer in range(1, n_layers):
        mapped = shortcuts.apply(states[layer], layer, kind=kind)
        first, second = final_logits(model, mapped).softmax(-1).topk(2).values.tolist()
        if first - second > 0.9 * lam + 0.1 * torch.exp(torch.tensor(-4 * t / mean_length)).item():
            return int(final_logits(model, mapped).argmax()), layer
    return int(final_logits(model, states[-1]).argmax()), n_layers


def own_maps(shortcuts: Shortcuts) -> dict[int, LinearMap]:
    """Return the affine maps as maps of one's own."""
    return {layer: shortcuts.map(layer, kind="affine") for layer in range(1, shortcuts.n_layers())}

"""Models of every family with padded batches, and what their places hold."""

from typing import Any

import pytest
import torch
from site_oracle_cases import padded, positions
from tiny_models import EVERY, VOCAB, tiny_model
from torch import Tensor

import pyengine
from pyengine.heads.places import CROSS, HEAD, Place, places_of

LENGTHS = (11, 6, 1, 8)
TARGETS = (3, 9, 5, 1)

every_family = pytest.mark.parametrize("family", EVERY)


def model_of(family: str, how: str = "eager", **overrides: Any) -> pyengine.Model:
    hf = tiny_model(family, **overrides).double()
    if hf._supports_sdpa or how == "eager":
        hf.set_attn_implementation(how)
    return pyengine.load((hf, None))


def batch(model: pyengine.Model, side: str = "right") -> dict[str, Tensor]:
    """Return random rows of different lengths, padded with random tokens."""
    generator = torch.Generator().manual_seed(5)
    names = [("", LENGTHS)] + [("decoder_", TARGETS)] * model.family.encoder_decoder
    inputs = {}
    for name, lengths in names:
        mask = padded([*lengths], max(lengths), side)
        inputs[f"{name}input_ids"] = torch.randint(4, VOCAB, mask.shape, generator=generator)
        inputs[f"{name}attention_mask"] = mask
    if not model.family.encoder_decoder:
        inputs["position_ids"] = positions(inputs["attention_mask"])
    return inputs


def row_alone(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """Return the real tokens of one row, alone and without a mask."""
    found: dict[str, Tensor] = {}
    for name in ("input_ids", "decoder_input_ids"):
        if name in inputs:
            mask = inputs[name.replace("input_ids", "attention_mask")][row].bool()
            found[name] = inputs[name][row : row + 1, mask]
    return found


def mask_of(place: Place, inputs: dict[str, Tensor]) -> Tensor:
    prefix = "decoder_" if place.site.name.startswith("decoder_") else ""
    return inputs[f"{prefix}attention_mask"].bool()


def values_of(
    model: pyengine.Model, places: list[Place], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    names = [place.site.name for place in places]
    return dict(pyengine.run_with_cache(model, inputs, names, return_type=None)[1])


def contexts(model: pyengine.Model) -> list[Place]:
    crossing = (CROSS,) if model.family.encoder_decoder else ()
    return places_of(model, (HEAD, *crossing))

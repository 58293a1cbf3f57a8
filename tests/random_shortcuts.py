"""Shortcuts of random maps, with validation rows read off plain Hugging Face."""

from typing import Any

import numpy as np
import torch
from tiny_models import tiny_model

import pyengine
from pyengine.models import Model
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.points import points_of
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.validation import Validation
from pyengine.units import UnitTable

LENGTHS = (5, 1, 7, 5, 3)
FIRST_UNIT = 11
BLOCKS = {
    ("gpt2", "decoder"): "transformer.h",
    ("gpt_neo", "decoder"): "transformer.h",
    ("openai-gpt", "decoder"): "transformer.h",
    ("bert", "encoder"): "bert.encoder.layer",
    ("electra", "encoder"): "electra.encoder.layer",
    ("t5", "encoder"): "encoder.block",
    ("t5", "decoder"): "decoder.block",
}

LAST_NORMS = {
    "gpt2": "transformer.ln_f",
    "gpt_neo": "transformer.ln_f",
    "openai-gpt": "transformer.h.2.ln_2",
    "bert": "cls.predictions.transform.LayerNorm",
    "electra": "generator_predictions.LayerNorm",
    "t5": "decoder.final_layer_norm",
}


def double_model(family: str, sharp: float = 1, **overrides: Any) -> Model:
    """Make a tiny model in float64, without tokenizer: units are fed as they are.

    Args:
        family: as `tiny_model` takes it.
        sharp: what logits are multiplied with: distributions differ in how sure they are.
        overrides: of the configuration.
    """
    hf = tiny_model(family, **overrides).double()
    with torch.no_grad():
        hf.get_submodule(LAST_NORMS[hf.config.model_type]).weight.mul_(sharp)
    return pyengine.load((hf, None))


def hf_inputs(model: Model, tokens: list[int]) -> dict[str, torch.Tensor]:
    """Return what plain Hugging Face reads; T5's decoder the same tokens after its start."""
    inputs = {"input_ids": torch.tensor([tokens])}
    if model.family.encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[model.decoder_start_id, *tokens]])
    return inputs


def units_of(seed: int = 0) -> list[list[int]]:
    """Draw token ids."""
    generator = np.random.default_rng(seed)
    return [generator.integers(4, 97, n).tolist() for n in LENGTHS]


def residual_stream(model: Model, hf: Any, stack: str, tokens: list[int]) -> torch.Tensor:
    """Return x_0 … x_L of every position, [T, L + 1, d]."""
    blocks = list(hf.get_submodule(BLOCKS[model.family.model_type, stack]))
    seen: list[Any] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for block in blocks
    ]
    hooks.append(blocks[-1].register_forward_hook(lambda _m, _i, out: seen.append(out)))
    with torch.no_grad():
        hf(**hf_inputs(model, tokens))
    for hook in hooks:
        hook.remove()
    found = [value[0] if isinstance(value, tuple | list) else value for value in seen]
    return torch.stack([value[0] for value in found], 1)


def validation_of(model: Model, stack: str, *, every: bool = True) -> Validation:
    """Read a stack's states at every token, or at the last, of each unit."""
    units = units_of()
    first = int(model.family.encoder_decoder and stack == "decoder")
    states, numbers, positions = [], [], []
    for number, tokens in enumerate(units):
        stream = residual_stream(model, model.hf, stack, tokens)
        for position in range(len(tokens)) if every else [len(tokens) - 1]:
            states.append(stream[position + first])
            numbers.append(FIRST_UNIT + 2 * number)
            positions.append(position)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    table = UnitTable(
        FIRST_UNIT + 2 * np.arange(len(units)),
        100 + offsets[:-1],
        offsets,
        np.concatenate(units).astype(np.int32),
    )
    return Validation(
        torch.stack(states).float(), torch.tensor(numbers), torch.tensor(positions), table
    )


def random_shortcuts(
    model: Model, stack: str, *, every: bool = True, sub_modules: bool = True, seed: int = 0
) -> Shortcuts:
    """Make maps to the last layer and over all sub-modules, `mat` and `affine`."""
    points = points_of(model, stack, sub_modules=sub_modules)
    d, generator = model.config.hidden_size, torch.Generator().manual_seed(seed)

    def drawn() -> dict[str, LinearMap]:
        weight = 0.7 * torch.eye(d) + 0.15 * torch.randn(d, d, generator=generator)
        bias = torch.randn(d, generator=generator)
        return {"mat": LinearMap(weight), "affine": LinearMap(weight + 0.1, bias)}

    maps = {stack: {pair: drawn() for pair in points.pairs("last")}}
    validation = {stack: validation_of(model, stack, every=every)}
    return Shortcuts.from_maps(model, {stack: points}, maps, validation, pairs="last")

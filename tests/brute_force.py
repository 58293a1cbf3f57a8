"""Trigger examples the obvious way: transformers, plain hooks and sorting. Shares no code."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

# Where each family's down-projection lies, from the model with its head.
DOWN = {
    "gpt2": ["transformer.h.{}.mlp.c_proj"],
    "gpt_neo": ["transformer.h.{}.mlp.c_proj"],
    "openai-gpt": ["transformer.h.{}.mlp.c_proj"],
    "bert": ["bert.encoder.layer.{}.output.dense"],
    "electra": ["electra.encoder.layer.{}.output.dense"],
    "t5": [
        "encoder.block.{}.layer.1.DenseReluDense.wo",
        "decoder.block.{}.layer.2.DenseReluDense.wo",
    ],
}
NON_LINEARITY = {
    "gpt2": ["transformer.h.{}.mlp.act"],
    "gpt_neo": ["transformer.h.{}.mlp.act"],
    "openai-gpt": ["transformer.h.{}.mlp.act"],
    "bert": ["bert.encoder.layer.{}.intermediate.intermediate_act_fn"],
    "electra": ["electra.encoder.layer.{}.intermediate.intermediate_act_fn"],
    "t5": [
        "encoder.block.{}.layer.1.DenseReluDense.act",
        "decoder.block.{}.layer.2.DenseReluDense.act",
    ],
}

# One candidate: score, unit, position.
Entry = tuple[float, int, int]


def apart(hf: Any) -> Any:
    """Give every block a non-linearity of its own, for hooks: openai-gpt's blocks share one."""
    if hf.config.model_type == "openai-gpt":
        for block in hf.transformer.h:
            block.mlp.act = copy.deepcopy(block.mlp.act)
    return hf


def activations(hf: Any, inputs: dict[str, Tensor], value: str = "post") -> list[Tensor]:
    """Return [B, T, d_ff] of every layer, T5's encoder before its decoder."""
    templates = (DOWN if value == "post" else NON_LINEARITY)[hf.config.model_type]
    seen: dict[str, Tensor] = {}
    handles, names = [], []
    apart(hf)
    for template in templates:
        for index in range(100):
            try:
                module = hf.get_submodule(template.format(index))
            except AttributeError:
                break
            name = template.format(index)
            names.append(name)
            hook = lambda _m, x, name=name: seen.__setitem__(name, x[0].detach().float().clone())  # noqa: E731
            handles.append(module.register_forward_pre_hook(hook))
    with torch.inference_mode():
        hf(**inputs)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


def unit_inputs(
    hf: Any, unit: list[int], prefix: list[int], suffix: list[int]
) -> dict[str, Tensor]:
    """Return the inputs of one unit alone."""
    inputs = {"input_ids": torch.tensor([[*prefix, *unit, *suffix]])}
    if hf.config.model_type == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[hf.config.decoder_start_token_id, *unit]])
    return inputs


def candidates(
    hf: Any,
    units: list[list[int]],
    *,
    prefix: list[int],
    suffix: list[int],
    value: str = "post",
) -> list[list[list[Entry]]]:
    """Return the entries of every [layer][dim], one unit at a time, in corpus order."""
    found: list[list[list[Entry]]] = []
    for index, unit in enumerate(units):
        acts = activations(hf, unit_inputs(hf, unit, prefix, suffix), value)
        if not found:
            found = [[[] for _ in range(layer.shape[2])] for layer in acts]
        n_encoder = len(acts) - getattr(hf.config, "num_decoder_layers", len(acts))
        for number, layer in enumerate(acts):
            decoder = hf.config.model_type == "t5" and number >= n_encoder
            first = 1 if decoder else len(prefix)
            content = layer[0, first : first + len(unit)].tolist()
            for position, row in enumerate(content):
                for dim, score in enumerate(row):
                    found[number][dim].append((score + 0.0, index, position))
    return found


def select(
    entries: list[Entry],
    k: int,
    *,
    units: list[list[int]],
    per: str = "unit",
    sign: int = 1,
    floor: float | None = None,
) -> list[Entry]:
    """Sort and cut: score descending, then unit, then position."""
    legal = [e for e in entries if not math.isnan(e[0])]
    if floor is not None:
        legal = [e for e in legal if sign * e[0] > floor]
    if per == "prefix":
        seen: set[tuple[int, ...]] = set()
        first = []
        for entry in sorted(legal, key=lambda e: e[1:]):
            text = tuple(units[entry[1]][: entry[2] + 1])
            if text not in seen:
                seen.add(text)
                first.append(entry)
        legal = first
    legal.sort(key=lambda e: (-sign * e[0], e[1], e[2]))
    if per == "unit":
        best: dict[int, Entry] = {}
        for entry in legal:
            best.setdefault(entry[1], entry)
        legal = list(best.values())
    return legal[:k]

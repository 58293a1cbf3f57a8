"""Interventions written out by hand, on the Hugging Face modules by their names, and bits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import pyengine

# model type -> per stack: the module whose output is the input of the non-linearity, and the
# down-projection.
MODULES = {
    "gpt2": [("transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj")],
    "gpt_neo": [("transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj")],
    "openai-gpt": [("transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj")],
    "bert": [("bert.encoder.layer.{}.intermediate.dense", "bert.encoder.layer.{}.output.dense")],
    "electra": [
        ("electra.encoder.layer.{}.intermediate.dense", "electra.encoder.layer.{}.output.dense")
    ],
    "t5": [
        (
            "encoder.block.{}.layer.1.DenseReluDense.wi",
            "encoder.block.{}.layer.1.DenseReluDense.wo",
        ),
        (
            "decoder.block.{}.layer.2.DenseReluDense.wi",
            "decoder.block.{}.layer.2.DenseReluDense.wo",
        ),
    ],
}
N_ENCODER = 2  # layers of the tiny T5's encoder

# In the first, a middle and the last layer, of T5 in both stacks; one is named twice.
NEURONS = [(0, 3), (0, 36), (2, 0), (2, 11), (0, 3), (1, 20)]

# Of one neuron: what to make of the coefficients [B, T, d_ff] of a stack.
Scale = Callable[[Tensor, int], None]


def module(hf: Any, layer: int, value: str = "post") -> Any:
    """Return the down-projection of a layer, or the module before its non-linearity."""
    stacks = MODULES[hf.config.model_type]
    stack, block = divmod(layer, N_ENCODER) if layer < N_ENCODER else (1, layer - N_ENCODER)
    if len(stacks) == 1:
        stack, block = 0, layer
    path = stacks[stack][value == "post"].format(block)
    if value == "pre" and getattr(hf.config, "is_gated_act", False):
        path += "_0"
    return hf.get_submodule(path)


@contextmanager
def by_hand(
    hf: Any,
    neurons: Sequence[tuple[int, int]],
    factor: float,
    at: Sequence[Sequence[tuple[int, int]]],
    value: str = "post",
) -> Iterator[None]:
    """Scale neurons, one number at a time.

    Args:
        hf: a tiny model.
        neurons: what to scale.
        factor: with what.
        at: per stack, (row, column) pairs.
        value: `post` or `pre`.
    """

    def change(layer: int, x: Tensor) -> Tensor:
        x = x.clone()
        places = at[0] if len(at) == 1 or layer < N_ENCODER else at[1]
        for dim in {dim for owner, dim in neurons if owner == layer}:
            for row, column in places:
                x[row, column, dim] *= factor
        return x

    handles = []
    for layer in {layer for layer, _ in neurons}:
        part = module(hf, layer, value)
        if value == "post":
            hook = part.register_forward_pre_hook(lambda _m, x, n=layer: (change(n, x[0]),))
        else:
            hook = part.register_forward_hook(lambda _m, _x, out, n=layer: change(n, out))
        handles.append(hook)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def inputs(model: pyengine.Model) -> tuple[dict[str, Tensor], list[list[tuple[int, int]]]]:
    """Return a padded batch whose answers stand in different columns, and where they stand."""
    family = model.family.model_type
    mark = {"bert": "[MASK]", "electra": "[MASK]", "t5": "<extra_id_0>"}.get(family)
    texts = ["w1 w2 w3", "w5 w4 w3 w2 w1 w9", "w7"]
    if mark is not None:
        texts = [f"{mark} w1 w2", f"w5 w4 w3 w2 {mark} w1", f"w7 w6 {mark} w9"]
    assert model.tokenizer is not None
    batch = model.tokenizer(texts, padding=True, return_tensors="pt")
    found = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if mark is None:
        return found, [[(0, 2), (1, 5), (2, 0)]]
    ids = model.tokenizer.convert_tokens_to_ids(mark)
    at = [[(row, found["input_ids"][row].tolist().index(ids)) for row in range(3)]]
    assert len({column for _, column in at[0]}) == 3
    if family == "t5":
        found["decoder_input_ids"] = torch.tensor([[0, 9, 11], [0, 12, 13], [0, 14, 15]])
        at.append([(0, 2), (1, 2), (2, 2)])
    return found, at


def logits(hf: Any, given: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return hf(**given).logits


def bits(hf: Any) -> dict[str, bytes]:
    """Return the bits of every parameter and buffer."""
    return {
        name: tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in hf.state_dict().items()
    }


def n_hooks(hf: Any) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in hf.modules())

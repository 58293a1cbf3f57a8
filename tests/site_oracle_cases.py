"""Random models of odd shapes in float64, and padded inputs, to recompute by hand."""

import random
from typing import Any, NamedTuple

import torch
from tiny_models import tiny_model
from torch import Tensor, nn

PADDINGS = ("none", "left", "right", "both")
ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu")


class Case(NamedTuple):
    """A model with eager attention, and keyword arguments of its forward pass."""

    hf: Any
    inputs: dict[str, Tensor]


def random_case(family: str, seed: int) -> Case:
    """Draw a configuration, weights and inputs.

    Neighbouring seeds differ in padding and in whether the head is tied; four have them all.
    """
    draw = random.Random(f"{family} {seed}")
    vocab, tied = draw.randint(31, 60), bool(seed // 2 % 2)
    overrides = _CONFIGURATIONS[family](draw) | {"vocab_size": vocab, "tie_word_embeddings": tied}
    hf = tiny_model(family.removesuffix("_gated"), seed, **overrides).double()
    if family.startswith("t5") and not tied:
        untie(hf)
    hf.set_attn_implementation("eager")
    return Case(hf, _inputs(hf, vocab, PADDINGS[seed % 4], torch.Generator().manual_seed(seed)))


def untie(hf: Any) -> None:
    """Give a T5 a head of its own: a fresh one is tied even if its configuration says no."""
    other = torch.randn(hf.lm_head.weight.shape, generator=torch.Generator().manual_seed(9))
    hf.lm_head.weight = nn.Parameter(other.to(hf.lm_head.weight))


def padded(lengths: list[int], width: int, side: str) -> Tensor:
    """Return an int64 mask [B, width]; `both` puts the odd token on the right."""
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        start = {"left": width - length, "right": 0, "both": (width - length) // 2}[side]
        mask[row, start : start + length] = 1
    return mask


def positions(mask: Tensor) -> Tensor:
    """Count the real tokens of each row from 0; padding gets 0 or its neighbour's."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _inputs(hf: Any, vocab: int, padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    def ids(below: int, width: int) -> Tensor:
        return torch.randint(below, (3, width), generator=generator)

    inputs = {"input_ids": ids(vocab, 11)}
    if hf.config.model_type == "t5":
        inputs["decoder_input_ids"] = ids(vocab, 8)
    if hf.config.model_type in ("bert", "electra") and padding != "right":
        inputs["token_type_ids"] = ids(hf.config.type_vocab_size, 11)
    if padding == "none":
        return inputs
    inputs["attention_mask"] = padded([11, 7, 3], 11, padding)
    if hf.config.model_type == "t5":
        inputs["decoder_attention_mask"] = padded([5, 8, 2], 8, padding)
    else:
        inputs["position_ids"] = positions(inputs["attention_mask"])
    return inputs


def _heads(draw: random.Random) -> tuple[int, int]:
    """Return how many heads, and the width of all."""
    n_heads = draw.choice([1, 2, 3])
    return n_heads, n_heads * draw.choice([3, 4, 7])


def _gpt2(draw: random.Random) -> dict[str, Any]:
    n_heads, width = _heads(draw)
    return {
        "n_head": n_heads,
        "n_embd": width,
        "n_inner": draw.choice([None, draw.randint(5, 41)]),
        "n_layer": draw.randint(1, 3),
        "activation_function": draw.choice(ACTIVATIONS),
        "layer_norm_epsilon": draw.choice([1e-5, 1e-2]),
        "scale_attn_weights": draw.random() < 0.7,
        "scale_attn_by_inverse_layer_idx": draw.random() < 0.5,
    }


def _gpt_neo(draw: random.Random) -> dict[str, Any]:
    n_heads, width = _heads(draw)
    kinds = draw.choice([["global", "local"], ["local", "global"], ["local"]])
    return {
        "num_heads": n_heads,
        "hidden_size": width,
        "intermediate_size": draw.choice([None, draw.randint(5, 41)]),
        "attention_types": [[kinds, 2]],
        "num_layers": 2 * len(kinds),
        "window_size": draw.randint(1, 5),  # texts are longer
        "activation_function": draw.choice(ACTIVATIONS),
        "layer_norm_epsilon": draw.choice([1e-5, 1e-2]),
    }


def _bert(draw: random.Random) -> dict[str, Any]:
    n_heads, width = _heads(draw)
    return {
        "num_attention_heads": n_heads,
        "hidden_size": width,
        "intermediate_size": draw.randint(5, 41),
        "num_hidden_layers": draw.randint(1, 3),
        "type_vocab_size": draw.randint(2, 4),
        "hidden_act": draw.choice(ACTIVATIONS),
        "layer_norm_eps": draw.choice([1e-12, 1e-2]),
    }


def _t5(draw: random.Random) -> dict[str, Any]:
    """Draw widths whose heads together are not as wide as the model, and few, close buckets."""
    n_heads, head = draw.choice([1, 2, 3]), draw.choice([2, 5])
    n_buckets, furthest = draw.choice([(6, 8), (7, 20), (8, 9), (32, 128)])
    return {
        "num_heads": n_heads,
        "d_kv": head,
        "d_model": n_heads * head + draw.choice([-1, 3, 4]),
        "d_ff": draw.randint(5, 41),
        "num_layers": draw.randint(1, 3),
        "num_decoder_layers": draw.randint(1, 3),
        "feed_forward_proj": draw.choice(["relu", "gelu", "silu"]),
        "relative_attention_num_buckets": n_buckets,
        "relative_attention_max_distance": furthest,
        "layer_norm_epsilon": draw.choice([1e-6, 1e-2]),
    }


def _t5_gated(draw: random.Random) -> dict[str, Any]:
    return _t5(draw) | {
        "feed_forward_proj": draw.choice(["gated-gelu", "gated-silu", "gated-relu"])
    }


def _openai_gpt(draw: random.Random) -> dict[str, Any]:
    n_heads, width = _heads(draw)
    return {
        "n_head": n_heads,
        "n_embd": width,
        "n_layer": draw.randint(1, 3),
        "afn": draw.choice(["gelu", "relu", "silu"]),
        "layer_norm_epsilon": draw.choice([1e-5, 1e-2]),
    }


def _electra(draw: random.Random) -> dict[str, Any]:
    drawn = _bert(draw)
    return drawn | {"embedding_size": drawn["hidden_size"]}


def _electra_small(draw: random.Random) -> dict[str, Any]:
    drawn = _bert(draw)
    return drawn | {"embedding_size": drawn["hidden_size"] + draw.choice([-1, 2])}


_CONFIGURATIONS = {
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "bert": _bert,
    "t5": _t5,
    "t5_gated": _t5_gated,
    "openai-gpt": _openai_gpt,
    "electra": _electra,
    "electra_small": _electra_small,
}

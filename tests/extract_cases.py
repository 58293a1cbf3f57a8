"""Extractions to compare: plain hooks on Hugging Face modules, one unit at a time; own reducers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import VOCAB, tiny_model
from torch import Tensor

import pyengine
from pyengine.corpus import Corpus
from pyengine.extraction.extract import extract
from pyengine.extraction.result import Extraction

# Site -> (module of the whole model, its first `in`put or its `out`put, i-th of n equal parts).
Place = tuple[str, str, int, int]
GPT = {
    "hook_embed": ("transformer.wte", "out", 0, 1),
    "hook_pos_embed": ("transformer.wpe", "out", 0, 1),
    "blocks.0.hook_resid_pre": ("transformer.h.0", "in", 0, 1),
    "blocks.1.mlp.hook_pre": ("transformer.h.1.mlp.act", "in", 0, 1),
    "blocks.1.mlp.hook_post": ("transformer.h.1.mlp.c_proj", "in", 0, 1),
    "blocks.2.mlp.hook_post": ("transformer.h.2.mlp.c_proj", "in", 0, 1),
    "blocks.1.hook_resid_post": ("transformer.h.1", "out", 0, 1),
    "ln_final.hook_out": ("transformer.ln_f", "out", 0, 1),
}
T5 = {
    "hook_embed": ("encoder.embed_tokens", "out", 0, 1),
    "encoder_blocks.1.attn.hook_z": ("encoder.block.1.layer.0.SelfAttention.o", "in", 0, 1),
    "encoder_blocks.0.mlp.hook_post": ("encoder.block.0.layer.1.DenseReluDense.wo", "in", 0, 1),
    "encoder_blocks.0.hook_resid_post": ("encoder.block.0", "out", 0, 1),
    "decoder_blocks.0.self_attn.hook_q": ("decoder.block.0.layer.0.SelfAttention.q", "out", 0, 1),
    "decoder_blocks.1.cross_attn.hook_z": (
        "decoder.block.1.layer.1.EncDecAttention.o",
        "in",
        0,
        1,
    ),
    "decoder_blocks.1.cross_attn.hook_k": (
        "decoder.block.1.layer.1.EncDecAttention.k",
        "out",
        0,
        1,
    ),
    "decoder_blocks.2.mlp.hook_post": ("decoder.block.2.layer.2.DenseReluDense.wo", "in", 0, 1),
    "decoder_blocks.2.hook_resid_post": ("decoder.block.2", "out", 0, 1),
}
GATED = {
    "encoder_blocks.1.mlp.hook_pre": ("encoder.block.1.layer.1.DenseReluDense.wi_0", "out", 0, 1),
    "encoder_blocks.1.mlp.hook_pre_linear": (
        "encoder.block.1.layer.1.DenseReluDense.wi_1",
        "out",
        0,
        1,
    ),
    "encoder_blocks.1.hook_mlp_out": ("encoder.block.1.layer.1.DenseReluDense", "out", 0, 1),
}
PLACES: dict[str, dict[str, Place]] = {
    "gpt2": GPT
    | {
        "blocks.1.attn.hook_z": ("transformer.h.1.attn.c_proj", "in", 0, 1),
        "blocks.1.attn.hook_k": ("transformer.h.1.attn.c_attn", "out", 1, 3),
    },
    "gpt_neo": GPT
    | {
        "blocks.1.attn.hook_z": ("transformer.h.1.attn.attention.out_proj", "in", 0, 1),
        "blocks.1.attn.hook_k": ("transformer.h.1.attn.attention.k_proj", "out", 0, 1),
    },
    "bert": {
        "hook_embed": ("bert.embeddings.word_embeddings", "out", 0, 1),
        "blocks.1.attn.hook_q": ("bert.encoder.layer.1.attention.self.query", "out", 0, 1),
        "blocks.1.attn.hook_z": ("bert.encoder.layer.1.attention.output.dense", "in", 0, 1),
        "blocks.0.mlp.hook_pre": ("bert.encoder.layer.0.intermediate.dense", "out", 0, 1),
        "blocks.0.mlp.hook_post": ("bert.encoder.layer.0.output.dense", "in", 0, 1),
        "blocks.2.hook_resid_post": ("bert.encoder.layer.2.output.LayerNorm", "in", 0, 1),
        "blocks.2.hook_normalized_resid_post": (
            "bert.encoder.layer.2.output.LayerNorm",
            "out",
            0,
            1,
        ),
    },
    "openai-gpt": {
        "hook_pos_embed": ("transformer.positions_embed", "out", 0, 1),
        "blocks.1.attn.hook_z": ("transformer.h.1.attn.c_proj", "in", 0, 1),
        "blocks.1.attn.hook_k": ("transformer.h.1.attn.c_attn", "out", 1, 3),
        "blocks.1.hook_resid_pre": ("transformer.h.1", "in", 0, 1),
        "blocks.1.hook_resid_mid": ("transformer.h.1.ln_1", "in", 0, 1),
        "blocks.2.mlp.hook_post": ("transformer.h.2.mlp.c_proj", "in", 0, 1),
        "blocks.2.hook_normalized_resid_post": ("transformer.h.2.ln_2", "out", 0, 1),
    },
    "electra_small": {
        "hook_embed": ("electra.embeddings.word_embeddings", "out", 0, 1),
        "embed_ln.hook_out": ("electra.embeddings.LayerNorm", "out", 0, 1),
        "blocks.0.hook_resid_pre": ("electra.embeddings_project", "out", 0, 1),
        "blocks.1.attn.hook_z": ("electra.encoder.layer.1.attention.output.dense", "in", 0, 1),
        "blocks.0.mlp.hook_post": ("electra.encoder.layer.0.output.dense", "in", 0, 1),
    },
    "t5": T5,
    "t5_gated": T5 | GATED,
}
SMALL: dict[str, Any] = {"batch_tokens": 48, "block_tokens": 40}


def random_units(n: int = 60, seed: int = 0) -> list[list[int]]:
    """Draw units, some equal and some that begin alike."""
    rng = np.random.default_rng(seed)
    units = [rng.integers(1, VOCAB, rng.integers(1, 14)).tolist() for _ in range(n)]
    units[3], units[7] = units[1], [*units[5][:2], 9, 9]
    return units


def extracted(
    reducers: Mapping[Any, Any], family: str = "gpt2", out: Path | None = None, **more: Any
) -> Extraction:
    """Extract from a tiny model over `random_units`."""
    model = pyengine.load((tiny_model(family), None))
    corpus = Corpus.from_token_ids(random_units())
    return extract(model, corpus, reducers, out=out, **SMALL | more)


def same_bits(a: Extraction, b: Extraction) -> bool:
    """Whether all tensors are equal, byte for byte."""
    mine, theirs = a.tensors(), b.tensors()
    return mine.keys() == theirs.keys() and all(
        mine[name].tobytes() == theirs[name].tobytes() for name in mine
    )


def activations(hf: Any, places: dict[str, Place], unit: list[int]) -> dict[str, Tensor]:
    """Return [n_tokens, n] of every place, for one unit alone."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, (path, side, i, n) in places.items():

        def keep(tensor: Any, name: str = name, i: int = i, n: int = n) -> None:
            tensor = tensor[0] if isinstance(tensor, tuple) else tensor
            seen[name] = tensor[0].chunk(n, dim=-1)[i].detach().clone()

        module = hf.get_submodule(path)
        if side == "in":
            handles.append(module.register_forward_pre_hook(lambda _m, x, keep=keep: keep(x)))
        else:
            handles.append(module.register_forward_hook(lambda _m, _x, out, keep=keep: keep(out)))
    inputs = {"input_ids": torch.tensor([unit])}
    if hf.config.model_type == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[hf.config.decoder_start_token_id, *unit]])
    with torch.inference_mode():
        hf(**inputs)
    for handle in handles:
        handle.remove()
    decoder = {
        name for name in seen if name.startswith("decoder") and "cross_attn.hook_k" not in name
    }
    return {name: value[1:] if name in decoder else value for name, value in seen.items()}


def by_unit(
    hf: Any, places: dict[str, Place], units: list[list[int]]
) -> Iterator[dict[str, Tensor]]:
    """Yield the activations of every unit."""
    for unit in units:
        yield activations(hf, places, unit)


class UnitSums:
    """A reducer of our own: by unit, activations added up, and what else it was told."""

    def __init__(self, n_units: int, n_keys: int) -> None:
        self.n_keys = n_keys
        self.sums = torch.zeros(n_units, n_keys, dtype=torch.float64)
        self.late = torch.zeros(n_keys, dtype=torch.float64)  # weighted by the position
        self.tokens = torch.zeros(n_units, dtype=torch.int64)
        self.updates = torch.tensor(0)

    def update(self, acts: Tensor, unit_ids: Tensor, mask: Tensor, token_ids: Tensor) -> None:
        acts = acts.double() * mask[..., None]
        self.sums.index_add_(0, unit_ids, acts.sum(1))
        self.late += (acts * torch.arange(acts.shape[1], device=acts.device)[:, None]).sum((0, 1))
        self.tokens.index_add_(0, unit_ids, (token_ids * mask).sum(1))
        self.updates += 1

    def merge(self, other: "UnitSums") -> None:
        for name, tensor in other.state_dict().items():
            self.state_dict()[name].add_(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        vars(self).update({name: tensor.clone() for name, tensor in state.items()})

    def compute(self) -> Tensor:
        return self.sums


class Largest:
    """A reducer of our own that is exact: the largest activation of every key."""

    exact = True

    def __init__(self, n_keys: int) -> None:
        self.largest = torch.full((n_keys,), -torch.inf)

    def update(self, acts: Tensor, unit_ids: Tensor, mask: Tensor, token_ids: Tensor) -> None:
        competing = acts.masked_fill(~mask[..., None], -torch.inf)
        self.largest = torch.maximum(self.largest, competing.amax((0, 1)))

    def merge(self, other: "Largest") -> None:
        self.largest = torch.maximum(self.largest, other.largest)

    def state_dict(self) -> dict[str, Tensor]:
        return {"largest": self.largest}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.largest = state["largest"]

    def compute(self) -> Tensor:
        return self.largest

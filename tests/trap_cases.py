"""Texts of different lengths, and plain Hugging Face to compare with."""

from typing import Any

import torch
from site_oracle_cases import padded
from tiny_models import tiny_model
from torch import Tensor

TEXTS = [[5, 9, 11, 7, 30, 41, 8], [12, 17], [60, 61, 5, 7]]


def eager(family: str, **overrides: Any) -> Any:
    """Make a model that computes its attention patterns."""
    hf = tiny_model(family, **overrides)
    hf.set_attn_implementation("eager")
    return hf


def left_padded() -> dict[str, Tensor]:
    """Return the texts as a tokenizer does that pads on the left."""
    mask = padded([len(ids) for ids in TEXTS], 7, "left")
    ids = torch.zeros_like(mask)
    ids[mask.bool()] = torch.tensor([token for ids in TEXTS for token in ids])
    return {"input_ids": ids, "attention_mask": mask}


def plain(hf: Any, **inputs: Any) -> Any:
    """Run Hugging Face as it is."""
    with torch.inference_mode():
        return hf(**inputs)


def alone(hf: Any) -> list[Tensor]:
    """Return every text's logits from a forward of its own, where nothing can go wrong."""
    return [plain(hf, input_ids=torch.tensor([ids])).logits[0] for ids in TEXTS]


def block_names(family: str) -> list[str]:
    """Name the blocks of `tiny_model`s as their sites do, in layer order."""
    if family == "t5":
        return [f"encoder_blocks.{i}" for i in range(2)] + [f"decoder_blocks.{i}" for i in range(3)]
    return [f"blocks.{i}" for i in range(4 if family == "gpt_neo" else 3)]

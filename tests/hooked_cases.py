"""Models and inputs that the tests of hooked passes share."""

from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, tiny_model
from torch import Tensor

import pyengine

families = pytest.mark.parametrize("family", FAMILIES)
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "bert": {"num_hidden_layers": 2},
    "openai-gpt": {"n_layer": 2},
    "electra": {"num_hidden_layers": 2},
    "t5": {"num_layers": 1, "num_decoder_layers": 2},
    "t5_gated": {"num_layers": 1, "num_decoder_layers": 2},
}


def inputs(family: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids, mask = torch.randint(4, 90, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    kwargs = {"input_ids": ids, "attention_mask": mask}
    if family.startswith("t5"):
        kwargs["decoder_input_ids"] = torch.randint(4, 90, (2, 5))
    return kwargs


def eager(family: str, **overrides: Any) -> pyengine.Model:
    hf = tiny_model(family, **overrides)
    hf.set_attn_implementation("eager")
    return pyengine.load(hf)


def prefix(family: str) -> str:
    return "decoder_blocks" if family.startswith("t5") else "blocks"

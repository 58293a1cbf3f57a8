"""Models and checks that the tests of model inputs share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model, word_tokenizer
from tokenizers import processors

import pyengine
from pyengine import Model, PyengineError
from pyengine.model_inputs import model_inputs

MODELS = Path(__file__).parent / "models"
TRAINED = ("demo", "gpt_neo", "bert", "t5")
CAUSAL = ("gpt2", "gpt_neo", "openai-gpt")
BERTS = ("bert", "electra")
ABSOLUTE = (*CAUSAL, *BERTS)
T5 = ("t5", "t5_gated")
ROWS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 16, 17, 18, 19]]
MASK = [[1] * 7, [1] * 3 + [0] * 4, [1] * 5 + [0] * 2]


def tiny(family: str, **overrides: Any) -> Model:
    return pyengine.load((tiny_model(family, **overrides), None))


def trained(name: str) -> Model:
    return pyengine.load("demo" if name == "demo" else MODELS / name)


def reading(family: str, before: str = "", after: str = "") -> Model:
    """Give a tiny model words w0, w1, ... = 4, 5, ..., and special tokens around a text."""
    made: Any = word_tokenizer()
    ids = {token: made.convert_tokens_to_ids(token) for token in (before, after) if token}
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}".strip(), special_tokens=list(ids.items())
    )
    return pyengine.load((tiny_model(family), made))


def kwargs(model: Model, inputs: Any, **options: Any) -> dict[str, Any]:
    """Return the keyword arguments as lists."""
    made = model_inputs(model, inputs, **options).kwargs
    assert all(tensor.dtype == torch.int64 and tensor.dim() == 2 for tensor in made.values())
    return {name: tensor.tolist() for name, tensor in made.items()}


def refused(model: Model, inputs: Any, match: str, **options: Any) -> None:
    with pytest.raises(PyengineError, match=match) as error:
        model_inputs(model, inputs, **options)
    assert "\n" not in str(error.value)

"""The models that the package `knowledge-neurons` names, and loading by name."""

from typing import Any

from transformers import AutoConfig

from pyengine.errors import PyengineError
from pyengine.loading import load

BERT_MODELS = ["bert-base-uncased", "bert-base-multilingual-uncased"]
GPT2_MODELS = ["gpt2"]
GPT_NEO_MODELS = [f"EleutherAI/gpt-neo-{size}" for size in ("125M", "1.3B", "2.7B")]
ALL_MODELS = BERT_MODELS + GPT2_MODELS + GPT_NEO_MODELS

_TYPES = {"bert": BERT_MODELS, "gpt2": GPT2_MODELS, "gpt_neo": GPT_NEO_MODELS}


def model_type(model_name: str) -> str:
    """Return `bert`, `gpt2` or `gpt_neo`, for a model of the lists, a hub name or a folder.

    Raises:
        PyengineError: for any other.
    """
    for name, models in _TYPES.items():
        if model_name in models:
            return name
    try:
        found = str(AutoConfig.from_pretrained(model_name).model_type)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PyengineError(f"model {model_name!r} is not supported: {reason}") from error
    if found not in _TYPES:
        known = ", ".join(_TYPES)
        raise PyengineError(f"model {model_name!r} is not supported: {found!r} is none of {known}")
    return found


def initialize_model_and_tokenizer(model_name: str) -> tuple[Any, Any]:
    """Load a model in float32 and eval mode, and its tokenizer.

    Raises:
        PyengineError: as `model_type` and `pyengine.load`.
    """
    model_type(model_name)
    model = load(model_name)
    return model.hf, model.tokenizer

"""A model with its weight edits as an ordinary Hugging Face folder."""

from pathlib import Path
from typing import Any

from pyengine.files import atomic_folder
from pyengine.interventions import check_inactive
from pyengine.loading import quiet
from pyengine.models import Model


def save_edited(model: Model, folder: str | Path) -> None:
    """Write the model as it is now: configuration, safetensors and tokenizer.

    Inside `with` the edits of `pyengine.weight_edits` are in it. Scaled activations are not in the
    weights and cannot be saved. The folder is whole or absent; `pyengine.load` and transformers'
    `from_pretrained` read it. Weights that the model's own checkpoint lacked are left out.

    Raises:
        PyengineError: if the folder is not empty or cannot be written, or while `suppress` or
            `enhance` is active.
    """
    check_inactive(model, "before saving: they are not in the weights")
    atomic_folder(folder, lambda temporary: _write(model, temporary))


def _write(model: Model, folder: Path) -> None:
    weights: dict[str, Any] = model.hf.state_dict()
    for name in model.absent:
        weights.pop(name, None)
    with quiet():
        model.hf.save_pretrained(folder, state_dict=weights)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)

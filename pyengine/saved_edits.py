"""A model with its weight edits as an ordinary Hugging Face folder."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.interventions import check_inactive
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
    folder = Path(folder)
    check_inactive(model, "before saving: they are not in the weights")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PyengineError(f"{folder} exists already; give a new directory")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise PyengineError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        _write(model, temporary)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except OSError as error:
        raise PyengineError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(model: Model, folder: Path) -> None:
    weights: dict[str, Any] = model.hf.state_dict()
    for name in model.absent:
        weights.pop(name, None)
    model.hf.save_pretrained(folder, state_dict=weights)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())

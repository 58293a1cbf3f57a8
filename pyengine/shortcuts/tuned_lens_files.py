"""Tuned lenses as folders, ours and those of the package tuned-lens: config.json beside parameters.

The translator of layer l is `{l}.weight` and `{l}.bias`, and stands for h + W h + b. Ours are in
params.safetensors; the published params.pt is a pickle, which is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine.cache_files import open_tensors, write_tensors
from pyengine.errors import PyengineError
from pyengine.files import atomic_write_text
from pyengine.models import Model
from pyengine.shortcuts.lens import final_readout
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.points import points_of, stacks_of
from pyengine.shortcuts.same_model import unembedding_hash
from pyengine.shortcuts.stored_maps import stored

CONFIG, PARAMETERS, PICKLE = "config.json", "params.safetensors", "params.pt"
KIND = "linear_tuned_lens"

# Reads a state dict without running code; see README.md.
CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('{source}', weights_only=True, map_location='cpu'), '{target}')\""
)


def save_tuned_lens(
    folder: str | Path, lens: Mapping[int, LinearMap], model: Model, *, stack: str | None = None
) -> Path:
    """Write a tuned lens; its config.json has tuned-lens's keys, and ours that name the model.

    Args:
        folder: made where there is none.
        lens: a map of every layer 0 … L - 1 to x_L.
        model: what it was trained on.
        stack: whose layers; None: the only one, or the decoder.

    Raises:
        PyengineError: if a layer has no map, or the folder cannot be written.
    """
    folder, stack = Path(folder), stack or stacks_of(model)[-1]
    n_layers = points_of(model, stack).n_blocks
    tensors: dict[str, Tensor] = {}
    for layer in range(n_layers):
        if layer not in lens:
            raise PyengineError(f"the lens has no map of layer {layer}, so it cannot be saved")
        weight, bias = _parts(lens[layer], int(model.config.hidden_size))
        tensors[f"{layer}.weight"] = stored(weight - torch.eye(len(weight)))
        tensors[f"{layer}.bias"] = stored(bias)
    config = {
        "base_model_name_or_path": model.name,
        "base_model_revision": model.revision,
        "bias": True,
        "d_model": int(model.config.hidden_size),
        "lens_type": KIND,
        "num_hidden_layers": n_layers,
        "pyengine": {
            "model_sha256": model.fingerprint,
            "stack": stack,
            "unembedding_sha256": unembedding_hash(model),
        },
    }
    write_tensors(folder / PARAMETERS, tensors)
    atomic_write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def load_tuned_lens(
    folder: str | Path, model: Model, *, stack: str | None = None
) -> dict[int, LinearMap]:
    """Read a tuned lens, ours or a published one whose parameters were converted.

    Args:
        folder: with config.json and params.safetensors.
        model: what it is to be used on. Where the configuration has a hash of ours (of the model
            and its unembedding) or of tuned-lens (of its unembedding), it has to be this model's.
        stack: whose layers; None: the only one, or the decoder.

    Returns:
        Of each layer the map to x_L, weight I + W.

    Raises:
        PyengineError: if a file is missing or of another kind, or belongs to another model.
    """
    folder, stack = Path(folder), stack or stacks_of(model)[-1]
    final_readout(model, stack)  # refuses a stack that nothing is read from
    config = _config(folder / CONFIG)
    n_layers, d = points_of(model, stack).n_blocks, int(model.config.hidden_size)
    for name, mine in (("num_hidden_layers", n_layers), ("d_model", d)):
        if config.get(name) != mine:
            raise PyengineError(
                f"{folder} is a lens of a model with {name} {config.get(name)}; "
                f"that of {model.name} is {mine}"
            )
    _check_hashes(folder, config, model, stack)
    tensors = _parameters(folder)
    found = {}
    for layer in range(n_layers):
        weight = _taken(tensors, f"{layer}.weight", (d, d), folder)
        bias = None
        if config.get("bias", True):
            bias = _taken(tensors, f"{layer}.bias", (d,), folder)
        found[layer] = LinearMap(torch.eye(d) + weight, bias)
    if tensors:
        raise PyengineError(f"{folder / PARAMETERS} holds {min(tensors)}, which no layer takes")
    return found


def published_unembedding_hash(model: Model) -> str:
    """Return tuned-lens's hash of the unembedding: SHA-256 of its print-out to one digit.

    NumPy prints the corners of a large matrix only, so that it tells few models apart.
    """
    weight: Any = model.hf.get_submodule(model.family.unembedding).weight
    corners = np.array_str(weight.detach().cpu().float().numpy(), precision=1)
    return hashlib.sha256(corners.encode()).hexdigest()


def _check_hashes(folder: Path, config: Mapping[str, Any], model: Model, stack: str) -> None:
    ours = config.get("pyengine", {})
    known = {
        "model_sha256": lambda: model.fingerprint,
        "stack": lambda: stack,
        "unembedding_sha256": lambda: unembedding_hash(model),
    }
    differing = [name for name, of in known.items() if name in ours and ours[name] != of()]
    published = config.get("unembed_hash")
    if published and published != published_unembedding_hash(model):
        differing.append("unembed_hash")
    if differing:
        raise PyengineError(
            f"{folder} is a lens of another model than {model.name}: its {differing[0]} differs"
        )


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PyengineError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise PyengineError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("lens_type", KIND) != KIND:
        raise PyengineError(f"{path} does not describe a {KIND}")
    return config


def _parameters(folder: Path) -> dict[str, Tensor]:
    path, pickle = folder / PARAMETERS, folder / PICKLE
    if not path.exists() and pickle.exists():
        convert = CONVERT.format(source=pickle, target=path)
        raise PyengineError(
            f"{pickle} is a pickle, which can run code when it is opened; convert it: {convert}"
        )
    with open_tensors(path) as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118


def _taken(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], folder: Path) -> Tensor:
    tensor = tensors.pop(name, None)
    if tensor is None or tensor.shape != shape:
        have = "none" if tensor is None else f"one of shape {list(tensor.shape)}"
        raise PyengineError(
            f"{folder / PARAMETERS} needs a tensor {name} of shape {list(shape)} and has {have}"
        )
    if not tensor.isfinite().all():
        raise PyengineError(f"{folder / PARAMETERS} has NaN or infinite numbers in {name}")
    return tensor


def _parts(lens: LinearMap, d: int) -> tuple[Tensor, Tensor]:
    weight = torch.eye(d) if lens.weight is None else stored(lens.weight)
    return weight, torch.zeros(d) if lens.bias is None else stored(lens.bias)

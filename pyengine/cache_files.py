"""Activations as safetensors files, whole or not at all: the same values give the same bytes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyengine.activation_cache import ActivationCache
from pyengine.errors import PyengineError
from pyengine.files import atomic_write

METADATA_KEY = "pyengine"


def save_cache(
    cache: ActivationCache, path: str | Path, *, inputs: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a cache to one safetensors file.

    Its tensors have the canonical names and keep their dtypes; each is stored in full, also where
    several sites share one. Its one metadata key, `pyengine`, is JSON: the model's `name`, `family`
    and `sha256`, `inputs`, and `tensors_sha256`, by which `load_cache` knows damage.

    Args:
        cache: from `pyengine.run_with_cache`.
        path: the file.
        inputs: what the model read, int64 [B, T] by name (`input_ids`, ...), kept in the metadata.

    Raises:
        PyengineError: if the file cannot be written.
    """
    model, tensors = cache.model, _separate(cache)
    facts = {
        "name": model.name,
        "family": model.family.model_type,
        "sha256": model.fingerprint,
        "inputs": {name: ids.tolist() for name, ids in (inputs or {}).items()},
        "tensors_sha256": _hash(tensors),
    }
    write_tensors(Path(path), tensors, {METADATA_KEY: json.dumps(facts, sort_keys=True)})
    return Path(path)


def load_cache(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of `save_cache` by canonical name, verifying their checksum.

    Raises:
        PyengineError: if the file is missing, damaged or not of `save_cache`.
    """
    expected = cache_facts(path)["tensors_sha256"]
    with open_tensors(Path(path)) as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if _hash(tensors) != expected:
        raise PyengineError(f"{path} is damaged: its contents do not match its checksum")
    return tensors


def cache_facts(path: str | Path) -> dict[str, Any]:
    """Read the metadata of `save_cache`: the model, and what it read.

    Raises:
        PyengineError: if the file is missing, damaged or not of `save_cache`.
    """
    with open_tensors(Path(path)) as file:
        metadata = file.metadata() or {}
    try:
        facts: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        return facts | {"tensors_sha256": facts["tensors_sha256"]}
    except (KeyError, TypeError, ValueError) as error:
        raise PyengineError(f"{path} is not a file of save_cache: it lacks its metadata") from error


def open_tensors(path: Path) -> Any:
    """Map a safetensors file; its tensors are read from the disk where they are used.

    Raises:
        PyengineError: if it is missing or damaged.
    """
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise PyengineError(f"{path} does not exist") from error
    except (OSError, SafetensorError) as error:
        raise PyengineError(f"{path} is damaged or not a safetensors file: {error}") from error


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous CPU tensors that share no memory; `metadata` has one key at most.

    Raises:
        PyengineError: if the file cannot be written.
    """

    def write(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=metadata)
        except SafetensorError as error:  # a full disk arrives as this type
            raise OSError(str(error)) from error

    atomic_write(path, write)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors, a copy of each that shares memory with one before it."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        if own.untyped_storage().data_ptr() in taken:
            own = own.clone()
        taken.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

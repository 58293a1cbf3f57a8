"""Checks before a merge or a restore: the same settings, and a state of the right shape."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import PyengineError


def check_same(mine: Mapping[str, Any], theirs: Mapping[str, Any], doing: str) -> None:
    """Refuse settings that differ.

    Raises:
        PyengineError: with every setting that differs.
    """
    names = [name for name in mine if mine[name] != theirs.get(name)]
    if names:
        here, there = (
            ", ".join(f"{name}={side.get(name)!r}" for name in names) for side in (mine, theirs)
        )
        raise PyengineError(f"cannot {doing} different settings: {here} and {there}")


def check_state(
    mine: Mapping[str, Any], tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Refuse a saved state that does not fit.

    Args:
        mine: the reducer's settings; compared with the state's where it has them.
        tensors: what the state must hold, by shape and dtype.
        state: the saved state.

    Raises:
        PyengineError: with the first thing that does not fit.
    """
    if "settings" in state:
        check_same(mine, from_tensor(state["settings"]), "load a state with")
    for name, wanted in tensors.items():
        found = state.get(name)
        if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
            dtype = str(wanted.dtype).removeprefix("torch.")
            raise PyengineError(f"state {name!r} must be {dtype} {list(wanted.shape)}")


def to_tensor(settings: Mapping[str, Any]) -> Tensor:
    """Return settings as UTF-8 JSON, uint8 [n], so that any tensor file can hold them."""
    return torch.tensor(list(json.dumps(settings, sort_keys=True).encode()), dtype=torch.uint8)


def from_tensor(tensor: Tensor) -> dict[str, Any]:
    """Return what `to_tensor` was given.

    Raises:
        PyengineError: if it is something else.
    """
    try:
        settings = json.loads(bytes(tensor.tolist()))
    except (ValueError, TypeError) as error:
        raise PyengineError(f"the state's settings are damaged: {error}") from error
    if not isinstance(settings, dict):
        raise PyengineError(f"the state's settings are damaged: {settings!r}")
    return settings

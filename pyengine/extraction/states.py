"""The states of reducers as named arrays: what shard files hold, and how they are merged.

A top-k is held as the scores and corpus offsets of its heaps (`max.scores`, `max.ids`), an exact
reducer as its state (`state.NAME`), one that adds as a state for each range (`07.NAME`).
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.extraction.reducers import copied
from pyengine.merge import merge_heaps
from pyengine.shards import Arrays


def directions(sign: str) -> list[str]:
    """Return the directions that a top-k with this `sign` keeps."""
    return [name for name in ("max", "min") if sign in (name, "both")]


def partials_of(arrays: Arrays) -> dict[int, Arrays]:
    """Sort the arrays of a `SummedFeed` by partial, in order."""
    found: dict[int, Arrays] = {}
    for key in sorted(arrays):
        partial, _, name = key.partition(".")
        found.setdefault(int(partial), {})[name] = arrays[key]
    return found


def to_arrays(state: Mapping[str, Tensor], prefix: str = "") -> Arrays:
    """Copy a reducer's state to numpy, its names behind `prefix`.

    Raises:
        PyengineError: if it holds anything but tensors of dtypes that numpy has.
    """
    arrays = {}
    for name, value in copied(state).items():
        if value.dtype == torch.bfloat16:
            raise PyengineError(f"state {name!r} of a reducer is bfloat16; keep it in float32")
        arrays[f"{prefix}.{name}" if prefix else name] = value.cpu().numpy()
    return arrays


def to_tensors(arrays: Arrays, prefix: str = "") -> dict[str, Tensor]:
    """Turn what `to_arrays` returned into a state."""
    cut = len(prefix) + 1 if prefix else 0
    return {name[cut:]: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def merge_heap_arrays(before: Arrays | None, arrays: Arrays, *, n_threads: int = 0) -> Arrays:
    """Merge heaps, direction by direction; the result is the same for any number of threads."""
    parts = [arrays] if before is None else [before, arrays]
    merged: Arrays = {}
    for direction in ("max", "min"):
        names = f"{direction}.scores", f"{direction}.ids"
        if names[0] in arrays:
            scores, ids = ([part[name] for part in parts] for name in names)
            k, largest = scores[0].shape[1], direction == "max"
            found = merge_heaps(scores, ids, k, largest=largest, n_threads=n_threads)
            merged |= dict(zip(names, found, strict=True))
    return merged


def merge_partials(before: Arrays | None, arrays: Arrays) -> Arrays:
    """Put partials of different shards side by side: they are added up at the end."""
    return {**(before or {}), **arrays}


def merge_exact(fresh: Any, before: Arrays | None, arrays: Arrays) -> Arrays:
    """Merge states by their reducer."""
    if before is None:
        return arrays
    merged = _loaded(fresh, to_tensors(before, "state"))
    merged.merge(_loaded(fresh, to_tensors(arrays, "state")))
    return to_arrays(merged.state_dict(), "state")


def summed(fresh: Any, arrays: Arrays) -> Arrays:
    """Add up partials, in order; return an exact reducer's state."""
    states = [to_tensors(partial) for partial in partials_of(arrays).values()]
    merged = _loaded(fresh, states[0]) if states else deepcopy(fresh)
    for state in states[1:]:
        merged.merge(_loaded(fresh, state))
    return to_arrays(merged.state_dict(), "state")


def _loaded(fresh: Any, state: Mapping[str, Tensor]) -> Any:
    reducer = deepcopy(fresh)
    reducer.load_state_dict(state)
    return reducer

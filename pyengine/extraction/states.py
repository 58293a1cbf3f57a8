"""The states of reducers as named arrays: what shard files hold, and how they are merged.

A top-k is held as the scores and corpus offsets of its heaps (`max.scores`, `max.ids`), an exact
reducer as its state (`state.NAME`), one that adds as states of nodes (`node07.NAME`) of the tree
that `pyengine.extraction.partials` adds in.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.extraction.partials import PARTIALS, joined, partial_of, ranges_of, total
from pyengine.extraction.reducers import copied
from pyengine.merge import merge_heaps
from pyengine.shards import Arrays


def directions(sign: str) -> list[str]:
    """Return the directions that a top-k with this `sign` keeps."""
    return [name for name in ("max", "min") if sign in (name, "both")]


class Partials:
    """The states of a reducer that adds, by node; the open one is the reducer's own.

    Args:
        fresh: an instance that has seen nothing, to merge with.
        n_blocks: blocks of the whole corpus.
    """

    def __init__(self, fresh: Any, n_blocks: int) -> None:
        self._add, self._n_blocks = partial(_added, fresh), n_blocks
        self._closed: dict[int, Arrays] = {}
        self._open: int | None = None

    def begin(self, block: int, state: Callable[[], Arrays]) -> bool:
        """Open the range of a block; return whether that has closed another, as `state` says."""
        node = PARTIALS + partial_of(block, self._n_blocks)
        before, self._open = self._open, node
        if before is None or before == node:
            return False
        self._closed = joined({**self._closed, before: state()}, self._add, self._n_blocks)
        return True

    def snapshot(self) -> Any:
        """Return what `restore` takes."""
        return self._open, dict(self._closed)

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self._open, closed = snapshot
        self._closed = dict(closed)

    def arrays(self, state: Callable[[], Arrays]) -> Arrays:
        """Return all states, that of the open range as `state` says, as files hold them."""
        opened = {} if self._open is None else {self._open: state()}
        return _named({**self._closed, **opened})

    def load(self, arrays: Arrays) -> Arrays | None:
        """Continue from what `arrays` returned; return the state of the open range."""
        self._closed = _nodes(arrays)
        self._open = max(self._closed, key=lambda node: ranges_of(node).start, default=None)
        return None if self._open is None else self._closed.pop(self._open)


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


def merge_partials(fresh: Any, before: Arrays | None, arrays: Arrays) -> Arrays:
    """Put the partials of different shards together, adding the halves of nodes."""
    return _named(joined(_nodes({**(before or {}), **arrays}), partial(_added, fresh)))


def merge_exact(fresh: Any, before: Arrays | None, arrays: Arrays) -> Arrays:
    """Merge states by their reducer."""
    if before is None:
        return arrays
    merged = _loaded(fresh, to_tensors(before, "state"))
    merged.merge(_loaded(fresh, to_tensors(arrays, "state")))
    return to_arrays(merged.state_dict(), "state")


def summed(fresh: Any, arrays: Arrays) -> Arrays:
    """Add up partials; return an exact reducer's state."""
    found = total(_nodes(arrays), partial(_added, fresh))
    state = to_arrays(fresh.state_dict()) if found is None else found
    return {f"state.{name}": array for name, array in state.items()}


def _added(fresh: Any, earlier: Arrays, later: Arrays) -> Arrays:
    merged = _loaded(fresh, to_tensors(earlier))
    merged.merge(_loaded(fresh, to_tensors(later)))
    return to_arrays(merged.state_dict())


def _nodes(arrays: Arrays) -> dict[int, Arrays]:
    """Sort arrays by node.

    Raises:
        PyengineError: for names that another version has given.
    """
    found: dict[int, Arrays] = {}
    for key in sorted(arrays):
        node, _, name = key.partition(".")
        if not node.startswith("node"):
            raise PyengineError(f"partial sums {node!r} are of an older version; run it again")
        found.setdefault(int(node.removeprefix("node")), {})[name] = arrays[key]
    return found


def _named(nodes: Mapping[int, Arrays]) -> Arrays:
    return {
        f"node{node:02d}.{name}": array
        for node, arrays in sorted(nodes.items())
        for name, array in arrays.items()
    }


def _loaded(fresh: Any, state: Mapping[str, Tensor]) -> Any:
    reducer = deepcopy(fresh)
    reducer.load_state_dict(state)
    return reducer

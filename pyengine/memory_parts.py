"""What reducers hold in memory and on disk, for any number of keys.

All of it but a constant is proportional to the number of keys, so that reducers of one key and of
two say how much it will be, and nothing of that size is allocated.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from pyengine.extraction.partials import MOST_HELD
from pyengine.extraction.specs import OURS, Spec
from pyengine.models import Model
from pyengine.reducers.topk import SIGNS, StreamingTopK

# Of every entry of a heap: a shard file holds its score and its id; the run's file its score, unit
# and position, all of which are in memory when it is written.
CHECKPOINT_ENTRY, RESULT_ENTRY = 4 + 8, 4 + 8 + 4


class Holding(NamedTuple):
    """Something that takes room.

    Attributes:
        what: in words.
        n_bytes: how much.
        bound: whether it may be less.
    """

    what: str
    n_bytes: int
    bound: bool = False


Plan = dict[str, list[Holding]]  # by place: device, host, disk


def heaps_plan(model: Model, settings: Mapping[str, Any], n_keys: int) -> Plan:
    """Plan a top-k as the engine holds it: prefixes that are new compete as tokens do."""
    per = "unit" if settings["per"] == "unit" else "token"
    settings = {**settings, "per": per, "device": model.device}

    def of_keys(n: int) -> np.ndarray:
        topk = StreamingTopK(**{**settings, "n_keys": n})
        held = tensor_bytes(topk)
        undo = topk.snapshot()
        return np.array([held, tensor_bytes([topk, undo]) - held])

    held, undo = _extrapolated(of_keys, n_keys)
    entries = settings["k"] * n_keys * len(SIGNS[settings["sign"]])
    return {
        "device": [
            Holding("heaps", 8 * entries),
            Holding("candidates", held - 8 * entries),
            Holding("undo", undo, bound=model.device.type == "cpu"),
        ],
        "host": [Holding("result", RESULT_ENTRY * entries)],
        "disk": [
            Holding("checkpoint", CHECKPOINT_ENTRY * entries),
            Holding("result", RESULT_ENTRY * entries),
        ],
    }


def summary_plan(model: Model, asked: Mapping[str, Any], n_keys: int) -> Plan:
    """Plan what is not a top-k: one state, or one for each range of the corpus."""
    spec: Spec = asked["spec"]
    if spec.name in OURS:

        def of_keys(n: int) -> np.ndarray:
            own = {**spec.settings, "n_keys": n, "device": model.device}
            return np.array([tensor_bytes(OURS[spec.name](**own).snapshot())])

        (state,) = _extrapolated(of_keys, n_keys)
    else:
        state = tensor_bytes(dict(asked["fresh"].state_dict()))
    name, kept = spec.name.rpartition(".")[2], 1 if spec.exact else MOST_HELD
    return {
        "device": [Holding(name, state), Holding("undo", state)],
        "host": [Holding("partial sums", kept * state, bound=True)] if kept > 1 else [],
        "disk": [Holding("checkpoint", kept * state, bound=kept > 1), Holding("result", state)],
    }


def tensor_bytes(held: Any) -> int:
    """Return the bytes of all tensors and arrays in an object, each memory once."""
    return sum(_storages(held, {}).values())


def _storages(held: Any, found: dict[int, int]) -> dict[int, int]:
    if isinstance(held, Tensor):
        storage = held.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes() if storage.data_ptr() else 0
    elif isinstance(held, np.ndarray):
        found[held.ctypes.data] = held.nbytes
    elif isinstance(held, Mapping):
        _storages(list(held.values()), found)
    elif isinstance(held, (tuple, list)):
        for item in held:
            _storages(item, found)
    elif type(held).__module__.partition(".")[0] == "pyengine" and hasattr(held, "__dict__"):
        _storages(vars(held), found)
    return found


def _extrapolated(of_keys: Callable[[int], np.ndarray], n_keys: int) -> list[int]:
    """Return for n keys what is linear in them, of what it is for one and two."""
    one, two = of_keys(1), of_keys(2)
    return [int(n) for n in one + (n_keys - 1) * (two - one)]

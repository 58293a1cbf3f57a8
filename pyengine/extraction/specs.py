"""A reducer as it was asked for: its sites, class and settings, as the manifest holds them."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pyengine.errors import PyengineError
from pyengine.extraction.states import (
    directions,
    merge_exact,
    merge_heap_arrays,
    merge_partials,
    summed,
    to_arrays,
    to_tensors,
)
from pyengine.reducers import settings
from pyengine.reducers.moments import Moments
from pyengine.reducers.topk import StreamingTopK, TopK
from pyengine.shards import Arrays, Merge
from pyengine.units import UnitTable

# Ours work inside the engine; a subclass of one is the user's own.
OURS: dict[str, Any] = {"StreamingTopK": StreamingTopK, "Moments": Moments}


@dataclass(frozen=True, eq=False)
class Spec:
    """One reducer of an extraction.

    Attributes:
        sites: canonical names.
        name: its class; of the user's own, with the module.
        exact: whether its merging is exact in any order; else partials are kept.
        settings: what its result depends on.
        fresh: an instance that has seen nothing; None where a run holds a user's own.
        asked: how the sites were spelled, where the caller is still there.
    """

    sites: tuple[str, ...]
    name: str
    exact: bool
    settings: dict[str, Any]
    fresh: Any
    asked: Any = None

    @classmethod
    def of(cls, sites: tuple[str, ...], reducer: Any, asked: Any = None) -> "Spec":
        """Describe a reducer that was given.

        Raises:
            PyengineError: if it lacks a method, or its state is not of tensors.
        """
        name = type(reducer).__name__
        if type(reducer) is OURS.get(name):
            own = settings.from_tensor(reducer.state_dict()["settings"])
            return cls._ours(sites, name, own, asked)
        for method in ("update", "merge", "state_dict", "load_state_dict"):
            if not callable(getattr(reducer, method, None)):
                raise PyengineError(f"{name} is no reducer: it has no method {method}")
        exact = bool(getattr(reducer, "exact", False))
        state = to_arrays(reducer.state_dict())
        shapes = {key: [str(array.dtype), *array.shape] for key, array in state.items()}
        return cls(sites, full_name(reducer), exact, shapes, deepcopy(reducer), asked)

    @classmethod
    def _ours(
        cls, sites: tuple[str, ...], name: str, own: Mapping[str, Any], asked: Any = None
    ) -> "Spec":
        # Positions need no room in a packed id here.
        kept = {key: value for key, value in own.items() if key != "max_positions"}
        return cls(sites, name, OURS[name] is StreamingTopK, kept, OURS[name](**kept), asked)

    @classmethod
    def from_question(cls, question: Mapping[str, Any]) -> "Spec":
        """Rebuild what `question` returned."""
        sites, name, own = tuple(question["sites"]), question["reducer"], question["settings"]
        if name in OURS:
            return cls._ours(sites, name, own)
        return cls(sites, name, question["exact"], own, None)

    def question(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "sites": list(self.sites),
            "reducer": self.name,
            "exact": self.exact,
            "settings": self.settings,
        }

    @property
    def is_topk(self) -> bool:
        return OURS.get(self.name) is StreamingTopK

    @property
    def key(self) -> str | tuple[str, ...]:
        """What an `Extraction` holds it under."""
        return self.sites[0] if len(self.sites) == 1 else self.sites

    def merge(self, n_threads: int = 0) -> Merge:
        """Return what merges its states of several shards.

        Raises:
            PyengineError: for a user's own, if there is no instance.
        """
        if self.fresh is None:
            raise PyengineError(
                f"the run holds reducers of your own ({self.name}); merge it in Python, with fresh "
                "ones: pyengine.merge_runs.merge_runs(folders, out, reducers=[...])"
            )
        if self.is_topk:
            return partial(merge_heap_arrays, n_threads=n_threads)
        return partial(merge_exact if self.exact else merge_partials, self.fresh)

    def final(self, arrays: Arrays, table: UnitTable) -> Arrays:
        """Turn the state of all shards into what the run's file holds."""
        if not self.is_topk:
            return arrays if self.exact else summed(self.fresh, arrays)
        found = {}
        for direction in directions(self.settings["sign"]):
            units, positions = table.locate(arrays[f"{direction}.ids"])
            found[f"{direction}.scores"] = arrays[f"{direction}.scores"]
            found[f"{direction}.units"], found[f"{direction}.positions"] = units, positions
        return found

    def result(self, final: Arrays) -> Any:
        """Return the result for the caller, of what the run's file holds."""
        if self.is_topk:
            sides = {side: _topk(final, side) for side in directions(self.settings["sign"])}
            return sides if len(sides) > 1 else next(iter(sides.values()))
        state = to_tensors(final, "state")
        if self.fresh is None:
            return state
        reducer = deepcopy(self.fresh)
        reducer.load_state_dict(state)
        return reducer.compute() if self.name in OURS else reducer


def full_name(reducer: Any) -> str:
    """Name the class of a user's own reducer."""
    return f"{type(reducer).__module__}.{type(reducer).__qualname__}"


def specs_of(manifest: Mapping[str, Any], own: Sequence[Any] = ()) -> list[Spec]:
    """Rebuild the reducers of a run.

    Args:
        manifest: of the run.
        own: fresh instances of the user's own reducers, in the order of the run; may be empty.

    Raises:
        PyengineError: if they are not the run's.
    """
    asked = manifest["question"]["reducers"]
    specs = [Spec.from_question(asked[str(index)]) for index in range(len(asked))]
    if not own:
        return specs
    theirs = [spec.name for spec in specs if spec.name not in OURS]
    if theirs != (given := [full_name(reducer) for reducer in own]):
        raise PyengineError(
            f"the run's own reducers are {', '.join(theirs) or 'none'}; given: {', '.join(given)}"
        )
    fresh = iter(own)
    return [spec if spec.name in OURS else Spec.of(spec.sites, next(fresh)) for spec in specs]


def _topk(final: Arrays, side: str) -> TopK:
    names = ("scores", "units", "positions")
    scores, units, positions = (torch.from_numpy(np.asarray(final[f"{side}.{n}"])) for n in names)
    return TopK(scores, units, positions)

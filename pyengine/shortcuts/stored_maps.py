"""Where maps are kept: in memory, or in files that are mapped when they are asked for.

A source point's tensors are float32, by name: `mat.{pair}.weight`, `affine.{pair}.weight`,
`affine.{pair}.bias`, and of the map to the last layer `{kind}.{pair}.basis`,
`{kind}.{pair}.variances` and `affine.{pair}.mean`.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor

from pyengine.analyses.agreement_result import read_table
from pyengine.cache_files import open_tensors
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.points import Points

# A stack and a source point.
Place = tuple[str, int]
Tensors = Mapping[str, Tensor]
# A map to the last layer: stack, source and kind.
OfLast = tuple[str, int, str]

FITS_FILE = "fits.parquet"
FITS = pa.schema(
    [
        ("stack", pa.string()),
        ("name", pa.string()),
        ("source", pa.int32()),
        ("target", pa.int32()),
        ("kind", pa.string()),
        ("step", pa.string()),
        ("rank", pa.int32()),
        ("condition", pa.float64()),
        ("n_rows", pa.int64()),
        ("solver", pa.string()),
        ("ridge", pa.float64()),
        ("rcond", pa.float64()),
    ]
)


class StoredMaps(Protocol):
    """All maps of a fit."""

    def of_source(self, place: Place) -> Tensors:
        """Return the tensors of a source point.

        Raises:
            KeyError: if no map begins there.
        """

    def each(self) -> Iterator[tuple[Place, Tensors]]:
        """Yield the tensors of every source point; they need not be kept."""

    def fits(self) -> pa.Table:
        """Return how each was solved; see `FITS`."""


class HeldMaps:
    """Maps in memory.

    Args:
        tensors: of every source point.
        fits: how each was solved.
    """

    def __init__(self, tensors: Mapping[Place, Tensors], fits: pa.Table) -> None:
        self._tensors, self._fits = tensors, fits

    @classmethod
    def of(
        cls,
        points: Mapping[str, Points],
        maps: Mapping[str, Mapping[tuple[int, int], Mapping[str, LinearMap]]],
        bases: Mapping[OfLast, Tensor],
        means: Mapping[OfLast, Tensor],
    ) -> "HeldMaps":
        """Take given maps; see `Shortcuts.from_maps`."""
        held: dict[Place, dict[str, Tensor]] = {}
        for stack, of_stack in maps.items():
            for pair, kinds in of_stack.items():
                tensors = held.setdefault((stack, pair[0]), {})
                for kind, given in kinds.items():
                    tensors |= map_tensors(kind, points[stack].name(*pair), given)
        for part, of_part in (("basis", bases), ("mean", means)):
            for (stack, source, kind), tensor in of_part.items():
                name = points[stack].name(source, points[stack].n_blocks)
                held[stack, source][f"{kind}.{name}.{part}"] = stored(tensor)
        return cls(held, FITS.empty_table())

    def of_source(self, place: Place) -> Tensors:
        """Return the tensors of a source point."""
        return self._tensors[place]

    def each(self) -> Iterator[tuple[Place, Tensors]]:
        """Yield the tensors of every source point."""
        yield from self._tensors.items()

    def fits(self) -> pa.Table:
        """Return how each was solved."""
        return self._fits


class MapFiles:
    """Maps in a run's directory; a file is mapped, so that only what is used is read.

    Args:
        folder: the run's directory.
        places: the source points that have a file.
    """

    def __init__(self, folder: Path, places: list[Place]) -> None:
        self._folder, self._places = folder, dict.fromkeys(places)
        self.of_source = cache(self._mapped)

    def each(self) -> Iterator[tuple[Place, Tensors]]:
        """Yield the tensors of every source point."""
        return ((place, self._mapped(place)) for place in self._places)

    def fits(self) -> pa.Table:
        """Return how each was solved."""
        return read_table(self._folder / FITS_FILE)

    def _mapped(self, place: Place) -> Tensors:
        if place not in self._places:
            raise KeyError(place)
        file = open_tensors(self._folder / map_file(place))
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def map_tensors(kind: str, name: str, given: LinearMap) -> dict[str, Tensor]:
    """Return the tensors of one map."""
    assert given.weight is not None, "the identity is not stored"
    found = {f"{kind}.{name}.weight": stored(given.weight)}
    return found if given.bias is None else found | {f"{kind}.{name}.bias": stored(given.bias)}


def stored(tensor: Tensor) -> Tensor:
    """Return a tensor as files hold it: contiguous float32 on the CPU."""
    return tensor.detach().to("cpu", torch.float32).contiguous()


def map_file(place: Place) -> str:
    """Name the file of a source point."""
    stack, source = place
    return f"maps-{stack}-{source:03d}.safetensors"

"""The points of a fit, as its run holds them: by name, without the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyengine.errors import PyengineError
from pyengine.shortcuts.points import Points


@dataclass(frozen=True)
class StoredPoints(Points):
    """The points of one stack, of which a run knows the names; `sites` is empty.

    Attributes:
        names: of each point, the canonical name of its site; the first L + 1 are x_0 … x_L.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, points: Points) -> "StoredPoints":
        """Keep the names of a model's points."""
        names = tuple(site.name for site in points.sites)
        return cls(points.stack, (), points.n_blocks, points.taps, points.steps, names)

    @classmethod
    def read(cls, stack: str, described: Mapping[str, Any]) -> "StoredPoints":
        """Rebuild what `describe` returned."""
        taps = tuple(tuple(block) for block in described["taps"])
        steps, names = tuple(described["steps"]), tuple(described["names"])
        return cls(stack, (), described["n_blocks"], taps, steps, names)

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of them."""
        taps = [list(block) for block in self.taps]
        names, steps = list(self.names), list(self.steps)
        return {"n_blocks": self.n_blocks, "taps": taps, "steps": steps, "names": names}

    def check_residual(self, source: int, target: int) -> None:
        """Refuse what is no pair of x_0 … x_L, in order.

        Raises:
            PyengineError: with the layers that there are.
        """
        if not 0 <= source <= target <= self.n_blocks:
            raise PyengineError(
                f"maps lead from a layer to itself or a later one, 0 to {self.n_blocks}; there is "
                f"none from {source} to {target}"
            )

    def sub_module(self, block: int, tap: int) -> tuple[int, int]:
        """Return the points between which a sub-module lies.

        Raises:
            PyengineError: if it is not there, or none was fitted.
        """
        if not self.taps:
            raise PyengineError("no sub-modules were fitted; fit with them (--sub-modules)")
        if not (0 <= block < self.n_blocks and 0 <= tap < len(self.steps)):
            raise PyengineError(
                f"there is no sub-module {tap} of block {block}: blocks count 0 to "
                f"{self.n_blocks - 1}, sub-modules 0 to {len(self.steps) - 1}"
            )
        return self.taps[block][tap], self.taps[block][tap + 1]

"""The maps of a fit by the points that they lead from and to, read when they are asked for."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
from torch import Tensor

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.shortcuts.linear_map import AFFINE, IDENTITY, KINDS, MAT, LinearMap
from pyengine.shortcuts.stored_maps import StoredMaps
from pyengine.shortcuts.stored_points import StoredPoints


class FittedMaps:
    """Maps between points of one or more stacks.

    Wherever a `stack` is asked for, None takes the only one, or the decoder.

    Args:
        maps: where they are kept.
        question: what the manifest says of stacks, points and pairs.
    """

    def __init__(self, maps: StoredMaps, question: Mapping[str, Any]) -> None:
        self._maps, self._pairs = maps, question["pairs"]
        described = {stack: question["points"][stack] for stack in question["stacks"]}
        self._points = {stack: StoredPoints.read(stack, of) for stack, of in described.items()}

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks that were fitted."""
        return tuple(self._points)

    @cached_property
    def fits(self) -> pa.Table:
        """How each map was solved, one row per map.

        Columns: stack, name, source and target (points), kind, step (what a sub-module is), rank
        and condition of the source (centred under `affine`), n_rows, solver, ridge, rcond.
        """
        return self._maps.fits()

    def points(self, stack: str | None = None) -> StoredPoints:
        """Return the points of a stack by name."""
        return self._points[self._stack(stack)]

    def n_layers(self, stack: str | None = None) -> int:
        """Return L, of x_0 … x_L."""
        return self.points(stack).n_blocks

    def pairs(self, stack: str | None = None) -> list[tuple[int, int]]:
        """List the (source, target) of the residual stream that have maps."""
        points = self.points(stack)
        found = points.pairs(self._pairs)
        return [pair for pair in found if max(pair) <= points.n_blocks]

    def kinds(self, stack: str | None = None) -> list[str]:
        """List the kinds of maps that there are: of a fit `mat` and `affine`."""
        stored = self._maps.of_source((self._stack(stack), self.pairs(stack)[0][0]))
        return [kind for kind in KINDS if any(name.startswith(f"{kind}.") for name in stored)]

    def map(
        self, source: int, target: int | None = None, kind: str = MAT, *, stack: str | None = None
    ) -> LinearMap:
        """Return the map from x_source to x_target, read when it is asked for.

        Args:
            source, target: 0 to L; target None: L. From a point to itself leads the identity.
            kind: `mat`, without an intercept; `affine`, with; `id`, the identity.

        Raises:
            PyengineError: if there is no such map.
        """
        check_choice("kind", kind, (IDENTITY, *KINDS))
        points = self.points(stack)
        target = points.n_blocks if target is None else target
        points.check_residual(source, target)
        if kind == IDENTITY or source == target:
            return LinearMap()
        if (source, target) not in self.pairs(stack):
            raise PyengineError(
                f"no map from layer {source} to {target} was fitted, only those to layer "
                f"{points.n_blocks}; fit all pairs (--all-pairs)"
            )
        return self._read(source, target, kind, stack)

    def sub_module(
        self, block: int, tap: int, kind: str = MAT, *, stack: str | None = None
    ) -> LinearMap:
        """Return the map over one sub-module: from tap t_tap of a block to the next.

        Args:
            block, tap: from 0; `points(stack).steps[tap]` says what is mapped over.
            kind: `mat`, `affine`.

        Raises:
            PyengineError: if there is no such map.
        """
        check_choice("kind", kind, KINDS)
        source, target = self.points(stack).sub_module(block, tap)
        return self._read(source, target, kind, stack)

    def basis(self, source: int, kind: str = MAT, *, stack: str | None = None) -> Tensor:
        """Return the basis in which the map to the last layer is cut to a lower rank.

        Args:
            source: 0 to L - 1.
            kind: `mat` or `affine`.

        It is float32 [d, d], for `LinearMap.truncated`: orthonormal columns, from the direction in
        which the map's outputs vary most down.

        Raises:
            PyengineError: if there is no such map.
        """
        check_choice("kind", kind, KINDS)
        self.points(stack).check_residual(source, last := self.n_layers(stack))
        return self._part(source, last, f"{kind}.{{}}.basis", stack)

    def output_mean(self, source: int, *, stack: str | None = None) -> Tensor:
        """Return A μ of the affine map to the last layer, μ the mean of x_source.

        It is float32 [d], for `LinearMap.truncated`, which keeps it.

        Raises:
            PyengineError: if there is no such map, or the fit is from before it was kept.
        """
        self.points(stack).check_residual(source, last := self.n_layers(stack))
        self._part(source, last, f"{AFFINE}.{{}}.weight", stack)
        try:
            return self._part(source, last, f"{AFFINE}.{{}}.mean", stack)
        except PyengineError:
            raise PyengineError(
                f"the affine map of layer {source} came without the mean of its outputs, which a "
                f"lower rank has to keep; fit again, or leave affine@r out"
            ) from None

    def truncated(
        self, source: int, rank: int, kind: str = MAT, *, stack: str | None = None
    ) -> LinearMap:
        """Return the map to the last layer cut to a rank, the best of that rank without a ridge.

        Args:
            source: 0 to L - 1.
            rank: 1 to d.
            kind: `mat` or `affine`.

        Raises:
            PyengineError: if there is no such map, or the rank is no truncation.
        """
        basis = self.basis(source, kind, stack=stack)
        if not 1 <= rank <= len(basis):
            raise PyengineError(
                f"{kind}@{rank} is no truncation: the maps have rank {len(basis)} at most"
            )
        mean = self.output_mean(source, stack=stack) if kind == AFFINE else None
        return self.map(source, kind=kind, stack=stack).truncated(basis, rank, mean)

    def apply(
        self,
        h: Tensor,
        source: int,
        target: int | None = None,
        kind: str = MAT,
        *,
        stack: str | None = None,
    ) -> Tensor:
        """Map h, [..., d], of x_source to x_target; see `map`."""
        return self.map(source, target, kind, stack=stack)(h)

    def _stack(self, stack: str | None) -> str:
        stack = self.stacks[-1] if stack is None else stack  # T5's decoder comes last
        if stack not in self._points:
            raise PyengineError(f"no {stack} was fitted; fitted were: {', '.join(self.stacks)}")
        return stack

    def _read(self, source: int, target: int, kind: str, stack: str | None) -> LinearMap:
        weight = self._part(source, target, f"{kind}.{{}}.weight", stack)
        bias = None if kind == MAT else self._part(source, target, f"{kind}.{{}}.bias", stack)
        return LinearMap(weight, bias)

    def _part(self, source: int, target: int, name: str, stack: str | None) -> Tensor:
        stack = self._stack(stack)
        name = name.format(self._points[stack].name(source, target))
        try:
            return self._maps.of_source((stack, source))[name]
        except KeyError:
            raise PyengineError(
                f"the {stack} has no {name} among the maps that were given"
            ) from None

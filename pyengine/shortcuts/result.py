"""The result of a fit: the maps between points of the residual stream, and what they score on."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.merge_runs import restarted
from pyengine.models import Model
from pyengine.run import RunFolder
from pyengine.shortcuts.linear_map import IDENTITY, KINDS, MAT, LinearMap
from pyengine.shortcuts.points import ALL, Points
from pyengine.shortcuts.same_model import check_same_model, given
from pyengine.shortcuts.stored_fit import stored_fit, write_fit
from pyengine.shortcuts.stored_maps import HeldMaps, StoredMaps
from pyengine.shortcuts.stored_points import StoredPoints
from pyengine.shortcuts.validation import Validation
from pyengine.token_text import TokenText

COUNTERS = ("n_tokens", "n_nan", "exact", "n_rows", "solver")


class Shortcuts:
    """Least-squares maps from layers of a model to later ones.

    For example::

        shortcuts = pyengine.open_run("runs/gpt2")
        guess = shortcuts.apply(h, 5)           # what x_12 would be, from x_5
        matrix = shortcuts.map(5, 8, "affine")  # needs a fit of all pairs

    Wherever a `stack` is asked for, None takes the only one, or the decoder.

    Attributes:
        manifest: settings, model and corpus, as in `manifest.json`.
        record: counters of the pass: n_tokens, n_computed, exact; by stack, each for training and
            validation, n_rows and n_nan (left out), and solver: `rows`, `gram` or `exact`.
        text: turns token ids into text.
    """

    def __init__(
        self,
        maps: StoredMaps,
        validation: Mapping[str, Validation],
        text: TokenText,
        manifest: dict[str, Any],
        record: dict[str, Any],
    ) -> None:
        self.text, self.manifest, self.record = text, manifest, record
        self._maps, self._validation = maps, validation
        question = manifest["question"]
        described = {stack: question["points"][stack] for stack in question["stacks"]}
        self._points = {stack: StoredPoints.read(stack, of) for stack, of in described.items()}

    @classmethod
    def from_maps(
        cls,
        model: Model,
        points: Mapping[str, Points],
        maps: Mapping[str, Mapping[tuple[int, int], Mapping[str, LinearMap]]],
        validation: Mapping[str, Validation],
        *,
        bases: Mapping[tuple[str, int, str], Tensor] | None = None,
        pairs: str = ALL,
    ) -> "Shortcuts":
        """Take maps that were made elsewhere.

        Args:
            model: what they belong to.
            points, validation: of each stack.
            maps: by stack, pair of points and kind (`mat`, `affine`).
            bases: by stack, source and kind, what `basis` returns; None: there are none.
            pairs: which pairs of the residual stream the maps are of: `last` or `all`.
        """
        held = HeldMaps.of(points, maps, bases or {})
        manifest, record = given(model, points, pairs)
        return cls(held, validation, TokenText.of(model.tokenizer), manifest, record)

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
        found = points.pairs(self.manifest["question"]["pairs"])
        return [pair for pair in found if max(pair) <= points.n_blocks]

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
                f"{points.n_blocks}; fit with pairs='all'"
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

    def validation(self, stack: str | None = None) -> Validation:
        """Return the states of the validation units, which were not trained on.

        Raises:
            PyengineError: if the maps came without.
        """
        if (found := self._validation.get(self._stack(stack))) is None:
            raise PyengineError("these shortcuts came without validation states; fit some")
        return found

    def check(self, model: Model) -> None:
        """Refuse any model but the one that was fitted.

        Raises:
            PyengineError: if the model or its output head differs.
        """
        check_same_model(self.manifest, model)

    def save(self, folder: str | Path) -> Path:
        """Write a run directory that `pyengine.open_run` reads.

        Raises:
            PyengineError: if the directory holds another run, or cannot be written.
        """
        run = RunFolder.begin(Path(folder), restarted(self.manifest))
        self.write(run)
        return run.path

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Write the result into a run directory and complete it; from then on it is read there."""
        names = write_fit(run.path, self._maps, self._validation, self.text)
        counters = {name: self.record[name] for name in COUNTERS}
        run.finish(names, counters, n_computed=self.record["n_computed"], **provenance)
        self.manifest = run.manifest
        self._maps, self._validation = stored_fit(run.path, names)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "Shortcuts":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        record = {"n_computed": None, **manifest["result"]}
        text = TokenText.load(folder)
        return cls(*stored_fit(folder, manifest["files"]), text, manifest, record)

    def __repr__(self) -> str:
        stacks = [
            f"{stack}: {len(self.pairs(stack))} pairs of {of.n_blocks + 1} layers"
            + (f", {len(of.steps)} sub-modules a block" if of.taps else "")
            for stack, of in self._points.items()
        ]
        return f"Shortcuts({self.manifest['model']['name']}; {'; '.join(stacks)})"

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
            raise PyengineError(f"the {stack} has no {name}") from None

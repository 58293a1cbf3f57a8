"""r² of every map of a stack, on its validation rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import torch

from pyengine.shortcuts.lens import Maps
from pyengine.shortcuts.linear_map import IDENTITY, KINDS, LinearMap
from pyengine.shortcuts.points import ADD
from pyengine.shortcuts.r2 import r_squared

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts

SCHEMA = pa.schema(
    [
        ("stack", pa.string()),
        ("name", pa.string()),
        ("source", pa.int32()),
        ("target", pa.int32()),
        ("step", pa.string()),
        ("mapping", pa.string()),
        ("r2", pa.float64()),
        ("residual_r2", pa.float64()),
    ]
)


class _Pair(NamedTuple):
    """Two points, what leads from one to the other if it is a sub-module, and maps by name."""

    source: int
    target: int
    step: str | None
    maps: Mapping[str, LinearMap]


def r2_table(
    shortcuts: "Shortcuts",
    stack: str,
    mappings: Mapping[str, Maps],
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Score every pair that has a map.

    Args:
        shortcuts: the fitted maps.
        stack: whose.
        mappings: maps to the last layer by name; of them `id`, `mat` and `affine` are scored
            between the other pairs, too.
        device: to compute on.
        on_progress: called with (pairs done, all).

    Returns:
        One row per pair and mapping: stack; name; source and target, points of the stack; step, of
        a sub-module what it is, else null; mapping; r2; residual_r2, of x_target - x_source. Over
        a sub-module residual_r2 is null, and so is r2 of `id` unless it is a residual sum: its
        points are not in the same space.
    """
    points, states = shortcuts.points(stack), shortcuts.validation(stack).states
    kinds = [name for name in mappings if name in (IDENTITY, *KINDS)]
    total = len(shortcuts.pairs(stack)) + len(points.taps) * len(points.steps)
    # One after the other: all maps at once may not fit into memory.
    pairs = chain(
        _residual(shortcuts, stack, mappings, kinds), _sub_modules(shortcuts, stack, kinds)
    )
    rows = []
    for done, pair in enumerate(pairs, 1):
        source, target = (states[:, point].to(device) for point in pair[:2])
        maps = {name: mapping.to(device) for name, mapping in pair.maps.items()}
        named = {"stack": stack, "name": points.name(*pair[:2]), "step": pair.step}
        for mapping, (r2, residual) in r_squared(source, target, maps).items():
            ends = {"source": pair.source, "target": pair.target}
            scored = _comparable(pair.step, mapping, r2, residual)
            rows.append({**named, **ends, "mapping": mapping, **scored})
        if on_progress is not None:
            on_progress(done, total)
    return pa.Table.from_pylist(rows, SCHEMA)


def _comparable(
    step: str | None, mapping: str, r2: float, residual: float
) -> dict[str, float | None]:
    """Keep what means something: differences of points do within one space only."""
    if step is None:
        return {"r2": r2, "residual_r2": residual}
    across = mapping == IDENTITY and step != ADD
    return {"r2": None if across else r2, "residual_r2": None}


def _residual(
    shortcuts: "Shortcuts", stack: str, mappings: Mapping[str, Maps], kinds: Sequence[str]
) -> Iterator[_Pair]:
    last = shortcuts.n_layers(stack)
    for source, target in shortcuts.pairs(stack):
        if target == last:
            maps = {name: of_layer(source) for name, of_layer in mappings.items()}
        else:
            maps = {kind: shortcuts.map(source, target, kind, stack=stack) for kind in kinds}
        yield _Pair(source, target, None, maps)


def _sub_modules(shortcuts: "Shortcuts", stack: str, kinds: Sequence[str]) -> Iterator[_Pair]:
    points = shortcuts.points(stack)
    for block, taps in enumerate(points.taps):
        for tap, (source, target) in enumerate(pairwise(taps)):
            fitted = [kind for kind in kinds if kind != IDENTITY]
            maps = {kind: shortcuts.sub_module(block, tap, kind, stack=stack) for kind in fitted}
            if IDENTITY in kinds:
                maps[IDENTITY] = LinearMap()
            yield _Pair(source, target, points.steps[tap], maps)

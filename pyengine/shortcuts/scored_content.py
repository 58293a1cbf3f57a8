"""Hashes of what an evaluation reads of a fit, so that no result is taken for another's."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pyengine.shards import TABLE
from pyengine.shortcuts.lens import Maps
from pyengine.shortcuts.linear_map import KINDS, LinearMap

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts


def maps_sha256(shortcuts: "Shortcuts", stack: str, name: str, to_last: Maps) -> str:
    """Return the SHA-256 of the maps that a mapping is scored by.

    Args:
        shortcuts: the fit.
        stack: whose maps.
        name: of the mapping; of `mat` and `affine` maps between other points are scored, too.
        to_last: its maps to the last layer.
    """
    digest = hashlib.sha256()
    for mapping in _maps(shortcuts, stack, name, to_last):
        for part in (mapping.weight, mapping.bias):
            if part is not None:
                digest.update(_bytes(part))
    return digest.hexdigest()


def rows_sha256(shortcuts: "Shortcuts", stack: str) -> str:
    """Return the SHA-256 of the validation rows of a stack and of the units that they are from."""
    held = shortcuts.validation(stack)
    digest = hashlib.sha256()
    for rows in (held.states, held.units, held.positions):
        digest.update(_bytes(rows))
    for name in TABLE:
        digest.update(np.ascontiguousarray(getattr(held.table, name)).data)
    return digest.hexdigest()


def _maps(shortcuts: "Shortcuts", stack: str, name: str, to_last: Maps) -> Iterator[LinearMap]:
    last, points = shortcuts.n_layers(stack), shortcuts.points(stack)
    yield from map(to_last, range(last))
    if name not in KINDS:
        return
    for source, target in shortcuts.pairs(stack):
        if target < last:
            yield shortcuts.map(source, target, name, stack=stack)
    for block, taps in enumerate(points.taps):
        for tap, _ in enumerate(pairwise(taps)):
            yield shortcuts.sub_module(block, tap, name, stack=stack)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().numpy().data

"""How much of a point's variance a map explains, coordinate by coordinate.

r² = mean over coordinates c of 1 - SSE_c / SST_c, SST_c about the mean of the rows scored. A
coordinate that is constant counts 1 if SSE_c is 0, else 0. A residual stream flatters it, for most
of x_j is x_i: `residual` is the r² of x_j - x_i, with the same errors.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.shortcuts.linear_map import LinearMap

# Of one float64 array; a few of them are held at once.
BLOCK_BYTES = 32 << 20
LEAST_COLUMNS = 64


class R2(NamedTuple):
    """Means over coordinates; not bounded below, never above 1."""

    r2: float
    residual: float


@torch.no_grad()
def r_squared(source: Tensor, target: Tensor, maps: Mapping[str, LinearMap]) -> dict[str, R2]:
    """Score maps from one point to another on the same rows.

    Products are float32 (float64 for such states); differences and sums, about a row of the data,
    are float64.

    Args:
        source: [n, d] states, any strides.
        target: [n, d].
        maps: by name.
    """
    n, d = target.shape
    step = max(LEAST_COLUMNS, BLOCK_BYTES // (8 * max(n, 1)))
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in maps}
    for first in range(0, d, step):
        columns = slice(first, first + step)
        y = target[:, columns].double()
        total = _about_mean(y)
        moved = _about_mean(y - source[:, columns].double())
        for name, mapping in maps.items():
            errors = (y - _columns(mapping, source, columns).double()).square().sum(0)
            parts[name].append((explained(errors, total), explained(errors, moved)))
    return {name: _mean(found) for name, found in parts.items()}


def explained(errors: Tensor, total: Tensor) -> Tensor:
    """Return 1 - SSE / SST per coordinate; of a constant one, 1 where there is no error, else 0."""
    constant = (errors == 0).to(errors.dtype)
    return torch.where(total > 0, 1 - errors / total, torch.where(total == 0, constant, total))


def _about_mean(y: Tensor) -> Tensor:
    """Return Σ (y - mean)² per column; a row is subtracted first, so that no mean is too large."""
    shifted = y - y[:1]
    return (shifted - shifted.mean(0)).square().sum(0)


def _columns(mapping: LinearMap, source: Tensor, columns: slice) -> Tensor:
    """Return some coordinates of the mapped rows."""
    if mapping.weight is None and mapping.bias is None:
        return source[:, columns]
    weight, bias = mapping.weight, mapping.bias
    part = None if bias is None else bias[columns]
    if weight is None:
        return LinearMap(None, part)(source[:, columns])
    return LinearMap(weight[columns], part)(source)


def _mean(parts: list[tuple[Tensor, Tensor]]) -> R2:
    r2, residual = (float(torch.cat(column).mean()) for column in zip(*parts, strict=True))
    return R2(r2, residual)

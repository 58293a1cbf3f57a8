"""Which positions of a site to keep."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.sites import Site

PosSlice = int | slice | Sequence[int] | None

# The dimension of positions; of attention maps, the queries'.
_DIMENSION = {"BTD": 1, "BTHD": 1, "BT1": 1, "BHTS": 2, "TSH": 0}


def sliced(value: Tensor, site: Site, positions: PosSlice) -> Tensor:
    """Return a site's value at some positions; a single one keeps its dimension.

    Raises:
        PyengineError: for a position that the value does not have.
    """
    if positions is None:
        return value
    dim = _DIMENSION[site.shape]
    size = value.shape[dim]
    if isinstance(positions, slice):
        chosen = list(range(*positions.indices(size)))
    else:
        chosen = [positions] if isinstance(positions, int) else [int(p) for p in positions]
    if outside := [p for p in chosen if not -size <= p < size]:
        raise PyengineError(f"{site.name} has {size} positions; {outside[0]} is not one of them")
    index = torch.tensor([p % size for p in chosen], dtype=torch.int64, device=value.device)
    return value.index_select(dim, index)

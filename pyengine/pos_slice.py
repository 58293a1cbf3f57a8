"""Which positions of a site to keep."""

import operator
from collections.abc import Iterable, Sequence

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
    chosen = _chosen(positions, size)
    if outside := [p for p in chosen if not -size <= p < size]:
        raise PyengineError(f"{site.name} has {size} positions; {outside[0]} is not one of them")
    index = torch.tensor([p % size for p in chosen], dtype=torch.int64, device=value.device)
    return value.index_select(dim, index)


def check_padding(positions: PosSlice, masks: Iterable[Tensor | None]) -> None:
    """Refuse positions counted from the end where that is padding: another one in every row.

    Raises:
        PyengineError: with the way out.
    """
    for mask in masks:
        if positions is None or mask is None:
            continue
        size = mask.shape[1]
        if isinstance(positions, slice):
            from_end = any(end is not None and end < 0 for end in (positions.start, positions.stop))
            counted = _chosen(positions, size) if from_end else []
        else:
            counted = [p for p in _chosen(positions, size) if -size <= p < 0]
        if len(counted) and not bool(mask[:, counted].all()):
            raise PyengineError(
                "pos_slice counts from the end, where shorter rows are padding; with "
                "padding='left' (--padding left) rows end in their last token"
            )


def _chosen(positions: int | slice | Sequence[int], size: int) -> list[int]:
    if isinstance(positions, slice):
        return list(range(*positions.indices(size)))
    try:
        listed = positions if isinstance(positions, Sequence) else [positions]
        return [operator.index(position) for position in listed]
    except TypeError:
        raise PyengineError(
            f"pos_slice is a position, a slice, or a list of positions, not {positions!r}"
        ) from None

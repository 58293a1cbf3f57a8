"""Which positions of a batch compete in a reducer, in anybody's loop."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyengine import ops
from pyengine.errors import PyengineError

MAX_IDS = 2**32 - 1


class Places(NamedTuple):
    """A batch, place by place.

    Attributes:
        admitted: bool [B, T], what the mask lets in: the tokens of the unit.
        competes: bool [B, T], of those the ones that are neither excluded nor skipped.
        positions: int64 [B, T], the position within the unit.
    """

    admitted: Tensor
    competes: Tensor
    positions: Tensor


class Competing:
    """Checks batches of activations, and says which of their positions compete.

    Args:
        n_keys: keys of the activations, [B, T, n_keys].
        exclude: token ids that never compete.
        skip_first: the first so many positions of every row never compete.

    Raises:
        PyengineError: for n_keys, exclude or skip_first out of range.
    """

    def __init__(self, n_keys: int, exclude: Sequence[int], skip_first: int) -> None:
        if n_keys < 0:
            raise PyengineError(f"n_keys must be a whole number from 0 on, got {n_keys}")
        for token in exclude:
            if isinstance(token, bool) or not isinstance(token, int):
                raise PyengineError(f"exclude must hold token ids, got {token!r}")
        if isinstance(skip_first, bool) or not isinstance(skip_first, int) or skip_first < 0:
            raise PyengineError(f"skip_first must be a whole number from 0 on, got {skip_first!r}")
        self._n_keys, self._skip_first = n_keys, skip_first
        self._exclude = sorted(set(exclude))

    def settings(self) -> dict[str, Any]:
        """Return what reducers must agree in to be merged."""
        return {"n_keys": self._n_keys, "exclude": self._exclude, "skip_first": self._skip_first}

    def of(
        self,
        acts: Tensor,
        mask: Tensor | None,
        token_ids: Tensor | None,
        first_position: int,
        positions: Tensor | None,
    ) -> Places:
        """Return the places of a batch, on the device of `acts`.

        Raises:
            PyengineError: if a shape or dtype does not fit, or token_ids are needed and missing.
        """
        self._check(acts, {"mask": mask, "token_ids": token_ids, "positions": positions})
        if self._exclude and token_ids is None:
            raise PyengineError("exclude needs token_ids, to know which positions to leave out")
        if positions is not None and first_position:
            raise PyengineError("positions and first_position say the same: give only one")
        device, shape = acts.device, acts.shape[:2]
        if mask is None:
            admitted = torch.ones(shape, dtype=torch.bool, device=device)
        else:
            admitted = mask.to(device, torch.bool)
        if positions is None:
            columns = torch.arange(first_position, first_position + shape[1], device=device)
            places = columns.expand(shape)
            counted = admitted.cumsum(1) - 1 + first_position
        else:
            places = counted = positions.to(device, torch.int64)
            if (places[admitted] < 0).any():
                raise PyengineError("a position is negative: hide padding by the mask")
        competes = admitted & (counted >= self._skip_first)
        if token_ids is not None and self._exclude:
            competes &= ~torch.isin(
                token_ids.to(device), torch.tensor(self._exclude, device=device)
            )
        return Places(admitted, competes, places)

    def _check(self, acts: Tensor, others: dict[str, Tensor | None]) -> None:
        if acts.dim() != 3 or acts.shape[2] != self._n_keys:
            raise PyengineError(f"acts must be [B, T, {self._n_keys}], got {tuple(acts.shape)}")
        if acts.dtype not in ops.DTYPES:
            raise PyengineError(f"acts must be float32, float16 or bfloat16, got {acts.dtype}")
        for name, tensor in others.items():
            if tensor is None:
                continue
            if tensor.shape != acts.shape[:2]:
                shape = tuple(tensor.shape)
                raise PyengineError(f"{name} must be {tuple(acts.shape[:2])}, got {shape}")
            if name != "mask" and tensor.is_floating_point():
                raise PyengineError(f"{name} must be integers, got {tensor.dtype}")


def packed_ids(
    unit_ids: Tensor, places: Places, max_positions: int, *, one_row_each: bool
) -> Tensor:
    """Return unit * max_positions + position, int64 [B, T]; -1 where nothing competes.

    Raises:
        PyengineError: for ids out of range, positions that do not ascend along a row, or, with
            `one_row_each`, a unit with two rows.
    """
    competes = places.competes
    if unit_ids.shape != competes.shape[:1]:
        raise PyengineError(f"unit_ids must be [{len(competes)}], got {tuple(unit_ids.shape)}")
    if unit_ids.is_floating_point():
        raise PyengineError(f"unit_ids must be integers, got {unit_ids.dtype}")
    units = unit_ids.to(competes.device, torch.int64)
    present = units[competes.any(1)]
    if one_row_each and len(present.unique()) < len(present):
        raise PyengineError("unit_ids must differ: with per='unit' a unit is one row of one call")
    found = places.positions[competes]
    if not found.numel():
        return torch.full_like(places.positions, -1)
    if (last := int(found.max())) >= max_positions:
        raise PyengineError(f"position {last} is beyond max_positions={max_positions}")
    ids = torch.where(competes, units[:, None] * max_positions + places.positions, -1)
    # The units too: their product could wrap around to a legal id.
    legal = int(present.min()) >= 0 and int(present.max()) <= MAX_IDS // max_positions
    if not legal or int(ids.max()) >= MAX_IDS:
        raise PyengineError("unit * max_positions + position must be from 0 to 2**32 - 2")
    before = ids.cummax(1).values[:, :-1]
    if ((ids[:, 1:] >= 0) & (ids[:, 1:] <= before)).any():
        raise PyengineError("positions must ascend along each row")
    return ids

"""What the reducers of whole rows share: a row is one token's states, its points side by side."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyengine.checks import check_count
from pyengine.errors import PyengineError


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Work in the dtypes that are there, whatever autocast or inference mode the caller is in."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class RowReducer(ABC):
    """A reducer of rows [n_points * d_model].

    A row with a NaN or an infinity at any point is left out, and counted in `n_nan`.

    Args:
        n_points: points of a row.
        d_model: width of each.
        device: where the state lives; the rows must be there too.

    Attributes:
        n_points, d_model: as given.
        n_keys: width of a row.
        n_rows: rows taken in.
        n_nan: rows left out.

    Raises:
        PyengineError: for an argument out of range.
    """

    dtype = torch.float64  # of the rows that are kept

    def __init__(self, n_points: int, d_model: int, *, device: torch.device | str = "cpu") -> None:
        check_count("n_points", n_points)
        check_count("d_model", d_model)
        self.n_points, self.d_model, self.n_keys = n_points, d_model, n_points * d_model
        self.device = torch.device(device)
        self.n_rows = self.n_nan = 0

    def update(
        self,
        acts: Tensor,
        unit_ids: Tensor | None = None,
        mask: Tensor | None = None,
        token_ids: Tensor | None = None,
        *,
        positions: Tensor | None = None,
    ) -> None:
        """Add the tokens of a batch.

        Args:
            acts: [B, T, n_keys], of any floating dtype.
            unit_ids: int64 [B]; None: 0, 1, ….
            mask: [B, T], bool or 0 and 1; False is left out. None: all count.
            token_ids: not used; taken so that all reducers are called alike.
            positions: int64 [B, T]; None: 0, 1, … along a row.

        Raises:
            PyengineError: if a shape or dtype does not fit.
        """
        if acts.dim() != 3:
            raise PyengineError(f"acts must be [B, T, {self.n_keys}], got {tuple(acts.shape)}")
        shape, device = acts.shape[:2], acts.device
        units = torch.arange(shape[0]) if unit_ids is None else unit_ids
        places = torch.arange(shape[1]).expand(shape) if positions is None else positions
        taken = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool()
        if taken.shape != shape or places.shape != shape or units.shape != shape[:1]:
            raise PyengineError(f"unit_ids, mask and positions must fit acts, {tuple(acts.shape)}")
        taken = taken.to(device)
        spread = units.to(device)[:, None].expand(shape)
        self.add(acts[taken], spread[taken], places.to(device)[taken])

    def add(
        self,
        rows: Tensor,
        units: Tensor | None = None,
        positions: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> None:
        """Add rows; they are copied.

        Args:
            rows: [n, n_keys], of any floating dtype.
            units, positions, ids: int64 [n]: the unit in the corpus, the position in it, and the
                offset of the unit's first token in the corpus, of each row. Only `RowBuffer` keeps
                them.

        Raises:
            PyengineError: if a shape or dtype does not fit.
        """
        if rows.dim() != 2 or rows.shape[1] != self.n_keys:
            raise PyengineError(f"rows must be [n, {self.n_keys}], got {tuple(rows.shape)}")
        if not rows.is_floating_point():
            raise PyengineError(f"rows must be floating, got {rows.dtype}")
        given = {"units": units, "positions": positions, "ids": ids}
        for name, place in given.items():
            if place is not None and place.shape != rows.shape[:1]:
                raise PyengineError(f"{name} must be [{len(rows)}], got {tuple(place.shape)}")
        with exactly(self.device):
            finite = rows.isfinite().all(1)
            kept = rows[finite].to(self.dtype)  # indexing has copied them
            if len(kept):
                self._take(
                    kept,
                    *(None if p is None else p.to(finite.device)[finite] for p in given.values()),
                )
            self.n_rows += len(kept)
            self.n_nan += len(rows) - len(kept)

    @abstractmethod
    def _take(
        self, rows: Tensor, units: Tensor | None, positions: Tensor | None, ids: Tensor | None
    ) -> None:
        """Take in rows of `dtype` that are finite, on `device`; they may be kept."""

    def settings(self) -> dict[str, Any]:
        """Return what two must agree in to be merged."""
        return {"n_points": self.n_points, "d_model": self.d_model}

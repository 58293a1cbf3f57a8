"""Which positions of a batch compete for a reducer, and what reducers see of a batch."""

from dataclasses import dataclass

import numpy as np
import torch

from pyengine import ops
from pyengine.batches import Batch
from pyengine.forward import on_device, to_device


@dataclass(frozen=True, eq=False)
class Competition:
    """A rule: every content token competes, except those named here.

    Equal rules should be one object, so that their rows are made once a batch.

    Attributes:
        exclude: ids of tokens that never compete.
        skip_first: so many positions at the beginning of each unit never compete.
        starts: int32 [n_units], first position of each unit that competes, or None.
    """

    exclude: tuple[int, ...] = ()
    skip_first: int = 0
    starts: np.ndarray | None = None

    def ids(self, batch: Batch) -> np.ndarray:
        """Return `batch.ids` with -1 where a position does not compete."""
        if self is EVERY_TOKEN:
            return batch.ids
        kept = batch.ids >= 0
        positions = np.arange(batch.ids.shape[1]) - batch.first
        if self.skip_first:
            kept &= positions >= self.skip_first
        if self.starts is not None:
            kept &= positions >= self.starts[batch.units][:, None]
        if self.exclude:
            kept &= ~np.isin(batch.input_ids, self.exclude)
        return np.where(kept, batch.ids, -1)


EVERY_TOKEN = Competition()


class BatchRows(ops.Rows):
    """Rows that remember the batch that they belong to."""

    def __init__(self, ids: torch.Tensor, batch: Batch) -> None:
        super().__init__(ids)
        self.batch = batch


class Reading:
    """What one stack of a model reads of a batch.

    Args:
        batch: the units as that stack reads them.
        device: where the activations are.
    """

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self._batch, self._device = batch, device
        self._rows: dict[Competition | None, BatchRows] = {}

    @property
    def n_rows(self) -> int:
        return len(self._batch.units)

    def rows(self, competition: Competition | None) -> BatchRows:
        """Return the rows under a rule, made once; under None nothing competes."""
        if competition not in self._rows:
            self._rows[competition] = BatchRows(self._ids(competition), self._batch)
        return self._rows[competition]

    def _ids(self, competition: Competition | None) -> torch.Tensor:
        if competition is EVERY_TOKEN:
            return on_device(self._batch, "ids", self._device)
        if competition is None:
            return torch.full(self._batch.ids.shape, -1, device=self._device)
        return to_device(competition.ids(self._batch), self._device)

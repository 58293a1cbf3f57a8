"""What a pass asks of reducers: of the user's own, and of those that work inside the engine."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from pyengine import ops
from pyengine.competition import BatchRows
from pyengine.errors import PyengineError


class Reducer(Protocol):
    """Anybody's reducer, as `pyengine.extract` takes it, fresh.

    Anything else that it has is optional: `n_keys`, checked against the width of its sites, and
    `exact = True`, if merging gives the same bits in any order and grouping (counts, maxima). The
    others keep a state for each of 16 ranges of the corpus, merged in a fixed tree.
    """

    def update(self, acts: Tensor, unit_ids: Tensor, mask: Tensor, token_ids: Tensor) -> None:
        """Fold a batch in.

        Args:
            acts: [B, T, n_keys], in the dtype of the model; column p belongs to content token p of
                its unit. Not to be changed, nor kept.
            unit_ids: int64 [B], index of the unit in the corpus.
            mask: bool [B, T], False beyond the end of the unit.
            token_ids: int64 [B, T]; anything beyond the end of the unit.
        """

    def merge(self, other: Self) -> None:
        """Fold another in, which has seen a later part of the corpus."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the whole state; what a fresh reducer returns must bring one back to that."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state_dict` returned, whatever was seen before."""

    def compute(self) -> Any:
        """Return the result; for its user, a pass does not call it."""


class EngineReducer(Protocol):
    """A reducer inside the engine: it takes a batch site by site, and can be taken back."""

    def fold(
        self,
        captured: ops.Captured,
        rows: ops.Rows,
        *,
        first_key: int = 0,
        seen: int = 0,
        careful: bool = False,
    ) -> None:
        """Fold one site of a batch into the keys from `first_key` on."""

    def flush(self) -> None:
        """Finish a batch, without waiting for the device."""

    def take_overflow(self) -> bool:
        """Whether something was lost since the last call; True asks for it all again, carefully."""

    def snapshot(self) -> Any:
        """Return a copy of the state, for `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, dropping what is pending."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the state as tensors."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state_dict` returned."""


class Updates:
    """Makes `update` calls out of what the engine hands on.

    Args:
        reducer: the user's own.
        n_keys: width of all its sites; it gets a batch when all of them are there.
    """

    def __init__(self, reducer: Reducer, n_keys: int) -> None:
        self._reducer, self._n_keys = reducer, n_keys
        self._pieces: dict[int, Tensor] = {}

    def fold(
        self,
        captured: ops.Captured,
        rows: ops.Rows,
        *,
        first_key: int = 0,
        seen: int = 0,
        careful: bool = False,
    ) -> None:
        """Take one site of a batch; `rows` are a `pyengine.competition.BatchRows`."""
        assert isinstance(rows, BatchRows)
        first = rows.batch.first
        content = slice(first, first + int(rows.batch.lengths.max()))
        acts = captured.values[:, content]
        if acts.shape[2] < self._n_keys:  # what the model goes on computing may overwrite it
            self._pieces[first_key] = acts.clone()
            if sum(piece.shape[2] for piece in self._pieces.values()) < self._n_keys:
                return
            acts = torch.cat([self._pieces[key] for key in sorted(self._pieces)], dim=2)
            self._pieces.clear()
        units, tokens = (
            torch.from_numpy(array).to(acts.device)
            for array in (rows.batch.units, rows.batch.input_ids[:, content])
        )
        self._reducer.update(acts, units, rows.ids[:, content] >= 0, tokens)

    def flush(self) -> None:
        """Do nothing: `update` has finished."""

    def take_overflow(self) -> bool:
        """Return False: nothing is ever lost."""
        return False

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the state."""
        return copied(self._reducer.state_dict())

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to a snapshot; it may be used again."""
        self._pieces.clear()
        self._reducer.load_state_dict(copied(snapshot))

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the state, not copied."""
        return self._reducer.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state, of which files have kept no devices."""
        now = self._reducer.state_dict()
        self._reducer.load_state_dict(
            {name: t.to(now[name].device) if name in now else t for name, t in state.items()}
        )


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state, on its device.

    Raises:
        PyengineError: if it holds anything but tensors.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise PyengineError(f"state {name!r} of a reducer must be a tensor, got {value!r}")
    return {name: value.detach().clone() for name, value in state.items()}

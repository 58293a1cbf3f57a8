"""What the reducers of rows share that fold them into sums, a block of rows at a time."""

from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor

from pyengine.checks import check_count
from pyengine.errors import PyengineError
from pyengine.reducers import settings
from pyengine.reducers.row_states import RowReducer, exactly


class BlockReducer(RowReducer):
    """A reducer that folds rows into float64 tensors, a block of rows at a time.

    Blocks are cut from the stream of rows, whatever batches they come in: only the order of rows
    and merges decides the last bits.
    """

    def __init__(
        self, n_points: int, d_model: int, block_rows: int, device: torch.device | str
    ) -> None:
        super().__init__(n_points, d_model, device=device)
        check_count("block_rows", block_rows)
        self.block_rows = block_rows
        self._sums: dict[str, Tensor] = {}  # empty before the first block
        self._n_folded = 0
        self._shared = False  # whether somebody else holds the same tensors
        self._pending: list[Tensor] = []

    def merge(self, other: Self) -> None:
        """Add what another reducer has seen, on any device.

        Raises:
            PyengineError: if the two differ in a setting.
        """
        settings.check_same(self.settings(), other.settings(), "merge reducers with")
        n_rows, n_nan, theirs = other.n_rows, other.n_nan, other.folded()
        with exactly(self.device):
            self._fold_pending(1)
            sums = {name: tensor.to(self.device) for name, tensor in theirs._sums.items()}
            if self._sums and sums:
                self._join(sums, theirs._n_folded)
            elif sums:
                self._sums, self._shared = sums, True
        self._n_folded += theirs._n_folded
        self.n_rows, self.n_nan = self.n_rows + n_rows, self.n_nan + n_nan

    def folded(self) -> Self:
        """Return a copy that has nothing pending."""
        found = copy(self)
        found.restore(self.snapshot())
        with exactly(self.device):
            found._fold_pending(1)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state and the settings, on the CPU, not to be changed.

        `counts` int64 [3]: rows, rows left out, rows folded; `pending` float64 [n, n_keys];
        `settings` uint8: JSON; the sums, float64, once a block is full.
        """
        none = torch.zeros(0, self.n_keys, dtype=self.dtype)
        found = {
            "counts": torch.tensor([self.n_rows, self.n_nan, self._n_folded]),
            "pending": torch.cat([none, *(rows.cpu() for rows in self._pending)]),
            "settings": settings.to_tensor(self.settings()),
        }
        self._shared = True
        return found | {name: tensor.cpu() for name, tensor in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the stream continues as if it had not stopped.

        Raises:
            PyengineError: if it is the state of another reducer, or of other settings.
        """
        if missing := {"counts", "pending", "settings"} - state.keys():
            name = type(self).__name__
            raise PyengineError(f"the state of a {name} lacks {', '.join(sorted(missing))}")
        settings.check_same(
            self.settings(), settings.from_tensor(state["settings"]), "load a state with"
        )
        self.n_rows, self.n_nan, self._n_folded = state["counts"].tolist()
        pending = state["pending"]
        with exactly(self.device):
            self._pending = [pending.to(self.device, copy=True)] if len(pending) else []
            own = state.keys() - {"counts", "pending", "settings"}
            self._sums = {name: state[name].to(self.device, copy=True) for name in sorted(own)}
            self._shared = False

    def snapshot(self) -> Any:
        """Return the state for `restore`; it is copied when the next block is folded in."""
        self._shared = True
        return self.n_rows, self.n_nan, self._n_folded, dict(self._sums), [*self._pending]

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self.n_rows, self.n_nan, self._n_folded, sums, pending = snapshot
        self._sums, self._pending, self._shared = dict(sums), [*pending], True

    def _take(self, rows: Tensor, *_: Any) -> None:
        self._pending.append(rows)
        self._fold_pending(self.block_rows)

    def _fold_pending(self, least: int) -> None:
        """Fold whole blocks while at least so many rows are pending."""
        if sum(map(len, self._pending)) < least:
            return
        blocks = torch.cat(self._pending).split(self.block_rows)
        rest = [*blocks[-1:]] if len(blocks[-1]) < least else []
        for block in blocks[: len(blocks) - len(rest)]:
            assert block.dtype == torch.float64, f"rows are summed in float64, not {block.dtype}"
            self._fold(block)
            self._n_folded += len(block)
        self._pending = [block.clone() for block in rest]

    def _own(self) -> None:
        """Copy the sums, before they are changed in place, if somebody else has them."""
        if self._shared:
            self._sums = {name: tensor.clone() for name, tensor in self._sums.items()}
            self._shared = False

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"block_rows": self.block_rows}

    @abstractmethod
    def _fold(self, rows: Tensor) -> None:
        """Add float64 [n, n_keys], n >= 1, to `_sums`."""

    @abstractmethod
    def _join(self, theirs: Mapping[str, Tensor], n_rows: int) -> None:
        """Add another's sums, of so many rows, to `_sums`."""

"""The states of the validation units, kept for scoring maps."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from pyengine.shards import TABLE, load_tensors, save_tensors
from pyengine.units import UnitTable


def validation_file(stack: str) -> str:
    """Name the file of a stack."""
    return f"validation-{stack}.safetensors"


@dataclass(frozen=True, eq=False)
class Validation:
    """The states of one stack at every token that was taken of the validation units.

    Attributes:
        states: float32 [n, P, d], a row's points side by side; the first L + 1 are x_0 … x_L.
        units: int64 [n], unit of the corpus; the rows are sorted by unit, then position.
        positions: int64 [n]: content tokens from 0, special ones before them -1, -2, …, those
            after them from the unit's length on.
        table: the units with their token ids, as they were fed: of one token of a causal model,
            cut behind it.
    """

    states: Tensor
    units: Tensor
    positions: Tensor
    table: UnitTable

    def __len__(self) -> int:
        return len(self.units)

    def __repr__(self) -> str:
        n, points, d_model = self.states.shape
        return f"Validation({n:,} rows of {len(self.table.units):,} units, {points} x {d_model})"

    def write(self, path: Path) -> None:
        """Write one file."""
        arrays = {name: getattr(self, name).numpy() for name in ("states", "units", "positions")}
        save_tensors(path, arrays | {f"table.{n}": getattr(self.table, n) for n in TABLE}, {})

    @classmethod
    def read(cls, path: Path) -> "Validation":
        """Read what `write` wrote.

        Raises:
            PyengineError: if the file is missing or damaged.
        """
        arrays, _ = load_tensors(path)
        table = UnitTable(**{name: arrays.pop(f"table.{name}") for name in TABLE})
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()}, table=table)


class StoredValidation(Mapping[str, Validation]):
    """The validation states of each stack, read from their files when they are asked for.

    Args:
        folder: the run's directory.
        stacks: those fitted.
    """

    def __init__(self, folder: Path, stacks: Iterable[str]) -> None:
        self._folder, self._stacks = folder, tuple(stacks)
        self._read = cache(Validation.read)

    def __getitem__(self, stack: str) -> Validation:
        if stack not in self._stacks:
            raise KeyError(stack)
        return self._read(self._folder / validation_file(stack))

    def __iter__(self) -> Iterator[str]:
        return iter(self._stacks)

    def __len__(self) -> int:
        return len(self._stacks)

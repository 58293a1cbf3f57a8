"""Distributions over the vocabulary in `.npy` files, one row per example, mapped into memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyengine.files import atomic_write


def create_distributions(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Create a file and return it as a float32 array to fill; `flush` it at the end."""
    if not shape[0] * shape[1]:
        with path.open("wb") as stream:  # np.save would add an ending
            np.save(stream, np.zeros(shape, np.float32))
        return np.zeros(shape, np.float32)
    return np.lib.format.open_memmap(path, "w+", np.float32, shape)


def map_distributions(path: Path) -> np.ndarray:
    """Map a file for reading."""
    found: np.ndarray = np.load(path, mmap_mode="r")
    return found


def join_distributions(files: Sequence[Path], path: Path) -> None:
    """Write the rows of several files into one, whole or not at all."""
    parts = [map_distributions(file) for file in files]
    shape = (sum(map(len, parts)), parts[0].shape[1] if parts else 0)

    def write(temporary: Path) -> None:
        rows, at = create_distributions(temporary, shape), 0
        for part in parts:
            rows[at : at + len(part)] = part
            at += len(part)
        if isinstance(rows, np.memmap):
            rows.flush()

    atomic_write(path, write)

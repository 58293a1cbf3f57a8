"""Which content positions of each unit are looked at: one at random, the last, or all."""

import numpy as np

POSITIONS = ("random", "last", "all")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def choose_positions(
    position: str, seed: int, units: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose positions of units; which others there are has no influence.

    Args:
        position: one of `POSITIONS`. `random` takes the unit's number of the SplitMix64 sequence
            of `seed`, modulo the unit's length.
        seed: 0 to 2**64 - 1.
        units: int64 [B], index of each unit in the corpus.
        lengths: [B], content tokens of each, at least 1.

    Returns:
        int64 [n] twice: the index into `units`, and the position, ascending.
    """
    lengths = np.asarray(lengths, np.int64)
    each = np.arange(len(units))
    if position == "all":
        rows = np.repeat(each, lengths)
        first = np.cumsum(lengths) - lengths
        return rows, np.arange(len(rows)) - first[rows]
    if position == "last":
        return each, lengths - 1
    drawn = splitmix64(seed, units) % lengths.astype(np.uint64)
    return each, drawn.astype(np.int64)


def splitmix64(seed: int, index: np.ndarray) -> np.ndarray:
    """Return uint64: the numbers at `index` (from 0) of the SplitMix64 sequence of a seed."""
    z = np.uint64(seed) + (np.asarray(index).astype(np.uint64) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

"""Which prefixes of units are new, and which repeat the prefix of an earlier unit."""

import numpy as np


def prefix_starts(tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the first position of each unit whose prefix has occurred in no earlier unit.

    Exact, without hashing: units are grouped by their first p tokens, and the groups are refined
    by the next token for p = 0, 1, ...; a group of one can repeat nothing, and drops out.

    Args:
        tokens: integers [n_tokens], unit after unit.
        offsets: int64 [n_units + 1].

    Returns:
        int32 [n_units]: the least p such that no earlier unit begins with tokens 0..p of this
        one, or the unit's length if there is none.
    """
    lengths = np.diff(offsets)
    starts = lengths.astype(np.int32)
    pending = np.ones(len(lengths), bool)  # no new prefix found yet
    units = np.arange(len(lengths))
    groups = np.zeros(len(lengths), np.int64)
    span = int(tokens.max(initial=0)) + 1
    position = 0
    while units.size:
        kept = lengths[units] > position
        units, groups = units[kept], groups[kept]
        refined = groups * span + tokens[offsets[units] + position]
        # `first` is the lowest unit of each group: units ascend, and the sort is stable.
        _, first, groups, counts = np.unique(
            refined, return_index=True, return_inverse=True, return_counts=True
        )
        news = units[first]
        news = news[pending[news]]
        starts[news] = position
        pending[news] = False
        shared = counts[groups] > 1
        units, groups = units[shared], groups[shared]
        position += 1
    return starts

"""Merge the top-k heaps of shards, exactly and independently of how the corpus was cut."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyengine import _native


def merge_heaps(
    scores: Sequence[NDArray[np.float32]],
    ids: Sequence[NDArray[np.int64]],
    k: int,
    *,
    unit_starts: NDArray[np.int64] | None = None,
    largest: bool = True,
    n_threads: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the k best entries of every key over all shards.

    The total order is (score descending, id ascending), with `largest=False` (score ascending,
    id ascending), so the answer is unique: the same bits for any order of the shards and any
    number of threads. -0.0 equals +0.0 and comes out as +0.0; infinities are legal. Several
    entries with one id (a shard given twice) collapse into the best of them.

    Merging is associative: any number of shards can be folded in bounded memory, with the same
    `k`, `unit_starts` and `largest` each time::

        best = merge_heaps([first_scores], [first_ids], k)
        for shard_scores, shard_ids in rest:
            best = merge_heaps([best[0], shard_scores], [best[1], shard_ids], k)

    Args:
        scores: one float32 `[n_keys, k_s]` per shard `s`, each row best first; `k_s` may differ
            between shards and may be 0.
        ids: one int64 `[n_keys, k_s]` per shard, beside `scores`. An unfilled slot holds id -1
            and score NaN; unfilled slots come last.
        k: entries to keep per key, at least 1.
        unit_starts: int64 `[n_units + 1]`, ascending; unit `u` owns the ids in
            `[unit_starts[u], unit_starts[u + 1])`, none where the two are equal. Given, only the
            best entry of each unit is kept.
        largest: keep the largest scores, else the smallest.
        n_threads: threads over keys; 0 means one per hardware thread.

    Returns:
        float32 scores and int64 ids, both `[n_keys, k]`; unfilled slots at the end of a row hold
        NaN and -1.

    Raises:
        ValueError: malformed input, naming the shard and the problem. Nothing is converted: other
            dtypes than float32 and int64 are refused, and non-contiguous arrays are copied.

    Cost: reads every input once and holds `12 * n_keys * k` bytes of output; the interpreter lock
    is released.
    """
    return _native.merge_heaps(scores, ids, k, unit_starts, largest, n_threads)

"""The 16 fixed ranges of a corpus that sums are kept for, so that sharding changes no bits.

Floating-point sums depend on their order. A reducer that adds keeps one partial sum per range, in
the corpus' order; a shard owns whole ranges, and the partials are added up in order at the end.
"""

from bisect import bisect_right

from pyengine.batches import shard_blocks

PARTIALS = 16


def partial_of(block: int, n_blocks: int) -> int:
    """Return the range, 0 to 15, that a block lies in; with less than 16 blocks some have none."""
    return bisect_right([_start(partial, n_blocks) for partial in range(PARTIALS)], block) - 1


def shard_of_partials(n_blocks: int, shard: int, n_shards: int) -> range:
    """Return the blocks of one shard, whole ranges; of more than 16 shards some have none.

    Raises:
        PyengineError: if there is no such shard.
    """
    owned = shard_blocks(PARTIALS, shard, n_shards)
    return range(_start(owned.start, n_blocks), _start(owned.stop, n_blocks))


def _start(partial: int, n_blocks: int) -> int:
    return partial * n_blocks // PARTIALS

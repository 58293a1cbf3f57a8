"""The 16 fixed ranges of a corpus that sums are kept for, so that sharding changes no bits.

Floating-point sums depend on their order. A reducer that adds keeps a state for each range, and
states are added in one fixed binary tree: two halves of a node as soon as both are there, so that a
pass holds few at a time. A shard owns whole ranges. Nodes are numbered from the root: node k's
halves are 2k and 2k + 1, so that range i is node 16 + i. A half without blocks has no state; what
there is of its sibling is the whole.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import TypeVar

from pyengine.batches import shard_blocks

PARTIALS = 16
# States that one shard holds at most: one of each level, and the one it adds to.
MOST_HELD = PARTIALS.bit_length()

S = TypeVar("S")


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


def ranges_of(node: int) -> range:
    """Return the ranges below a node."""
    n = PARTIALS >> (node.bit_length() - 1)
    return range(node * n - PARTIALS, (node + 1) * n - PARTIALS)


def joined(
    nodes: Mapping[int, S], add: Callable[[S, S], S], n_blocks: int | None = None
) -> dict[int, S]:
    """Add the halves of nodes wherever both are there.

    Args:
        nodes: states of nodes of which none is below another, all finished.
        add: makes one state of that of an earlier and that of a later part.
        n_blocks: of the corpus, where that is known: then also ranges without any are finished.
    """
    found: dict[int, S] = {}
    waiting = dict(nodes)
    while waiting:
        node, state = waiting.popitem()
        sibling = node ^ 1
        if sibling in found or sibling in waiting:
            other = found.pop(sibling) if sibling in found else waiting.pop(sibling)
            waiting[node // 2] = add(state, other) if node < sibling else add(other, state)
        elif node > 1 and n_blocks is not None and _without_blocks(sibling, n_blocks):
            waiting[node // 2] = state
        else:
            found[node] = state
    return found


def total(nodes: Mapping[int, S], add: Callable[[S, S], S], node: int = 1) -> S | None:
    """Add all nodes, in the tree's order; None without any."""
    if node in nodes or node >= PARTIALS:
        return nodes.get(node)
    halves = (total(nodes, add, 2 * node), total(nodes, add, 2 * node + 1))
    there = [half for half in halves if half is not None]
    return add(*there) if len(there) == 2 else next(iter(there), None)


def _without_blocks(node: int, n_blocks: int) -> bool:
    ranges = ranges_of(node)
    return _start(ranges.start, n_blocks) == _start(ranges.stop, n_blocks)


def _start(partial: int, n_blocks: int) -> int:
    return partial * n_blocks // PARTIALS

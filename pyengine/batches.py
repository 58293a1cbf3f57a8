"""Blocks and batches: which units are computed together. Pure numpy, and a function of the corpus.

Blocks are ranges of units, so that shards share none; inside a block units are sorted by length and
cut into batches under a token budget. Nothing here depends on the machine or on the shard count.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pyengine.checks import check_count, check_shard
from pyengine.store import TokenStore


@dataclass(frozen=True, eq=False)
class Batch:
    """Units of similar length, one per row: special tokens around the content, padded on the right.

    Attributes:
        input_ids: int64 [B, T].
        attention_mask: int64 [B, T], 0 = padding.
        ids: int64 [B, T], the token's offset among the store's content tokens minus the base;
            -1 where there is none (special tokens, padding).
        units: int64 [B], unit index in the store.
        lengths: int32 [B], content tokens of each unit.
        first: column of the first content token.
        pad_id: what `input_ids` holds at the padding.
        copies: the arrays that are on the model's device already, by name.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    ids: np.ndarray
    units: np.ndarray
    lengths: np.ndarray
    first: int
    pad_id: int
    copies: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def n_tokens(self) -> int:
        """Content tokens."""
        return int(self.lengths.sum())

    @property
    def n_computed(self) -> int:
        """Tokens computed, padding and special tokens included."""
        return self.input_ids.size

    def rows(self, rows: np.ndarray) -> "Batch":
        """Return some rows, at the same padded length."""
        names = ("input_ids", "attention_mask", "ids", "units", "lengths")
        found = {name: getattr(self, name)[rows] for name in names}
        return replace(self, **found, copies={})

    def shifted(self, start_token: int) -> "Batch":
        """Return the decoder's input for the same units: `start_token`, then the content.

        Slot p reads content token p - 1 and is reported at that position; slot 0 never competes.
        """
        longest = int(self.lengths.max())
        content = slice(self.first, self.first + longest)
        inside = np.arange(longest) < self.lengths[:, None]
        shape = (len(self.units), longest + 1)
        input_ids = np.full(shape, start_token, np.int64)
        input_ids[:, 1:] = np.where(inside, self.input_ids[:, content], self.pad_id)
        mask = np.ones(shape, np.int64)
        mask[:, 1:] = inside
        ids = np.full(shape, -1, np.int64)
        ids[:, 1:] = np.where(inside, self.ids[:, content], -1)
        found = replace(self, input_ids=input_ids, attention_mask=mask, ids=ids)
        return replace(found, first=1, copies={})


def plan_blocks(offsets: np.ndarray, block_tokens: int) -> np.ndarray:
    """Cut the units into blocks of about `block_tokens` content tokens.

    A block ends with the unit that reaches the next multiple of `block_tokens`.

    Args:
        offsets: int64 [n_units + 1], as in the store.
        block_tokens: at least 1.

    Returns:
        int64 [n_blocks + 1], strictly increasing from 0 to n_units: block b holds the units
        boundaries[b] to boundaries[b + 1] - 1.
    """
    check_count("block_tokens", block_tokens)
    n_tokens = int(offsets[-1] - offsets[0])
    marks = np.arange(block_tokens, n_tokens, block_tokens)
    cuts = np.searchsorted(offsets, offsets[0] + marks)
    return np.unique(np.concatenate([[0], cuts, [len(offsets) - 1]])).astype(np.int64)


def shard_blocks(n_blocks: int, shard: int, n_shards: int) -> range:
    """Return the blocks of one shard: contiguous, each block in exactly one, as even as can be.

    Some are empty where there are more shards than blocks.

    Raises:
        PyengineError: if there is no such shard.
    """
    check_shard(shard, n_shards)
    return range(shard * n_blocks // n_shards, (shard + 1) * n_blocks // n_shards)


def form_batches(
    store: TokenStore,
    block: tuple[int, int],
    *,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    batch_tokens: int,
    base: int = 0,
    pad_id: int = 0,
) -> Iterator[Batch]:
    """Yield the batches of a block, short units first.

    Args:
        store: the tokenised corpus.
        block: first unit, and the one after the last.
        prefix: special token ids before each unit's content.
        suffix: special token ids after it.
        batch_tokens: tokens per batch, padding included; a longer unit makes a batch of its own.
        base: subtracted from the ids: where the shard's first token lies in the store.
        pad_id: token id of padding.
    """
    check_count("batch_tokens", batch_tokens)
    first, last = block
    offsets = np.asarray(store.offsets[first : last + 1])
    # One read of the store per block: a memory map pages in order.
    tokens = np.asarray(store.tokens[offsets[0] : offsets[-1]], np.int64)
    lengths = np.diff(offsets)
    order = np.argsort(lengths, kind="stable")
    around = len(prefix) + len(suffix)
    for rows in cut(order, lengths[order] + around, batch_tokens):
        n = lengths[rows]
        longest = int(n.max())
        column = np.arange(longest)
        inside = column < n[:, None]
        offset = (offsets[rows] - offsets[0])[:, None] + column
        content = tokens[np.where(inside, offset, 0)]

        shape = (len(rows), longest + around)
        begin, end = len(prefix), len(prefix) + longest
        input_ids = np.full(shape, pad_id, np.int64)
        input_ids[:, :begin] = prefix
        input_ids[:, begin:end] = np.where(inside, content, pad_id)
        for i, token in enumerate(suffix):
            input_ids[np.arange(len(rows)), begin + n + i] = token
        ids = np.full(shape, -1, np.int64)
        ids[:, begin:end] = np.where(inside, offset + (int(offsets[0]) - base), -1)
        mask = (np.arange(shape[1]) < n[:, None] + around).astype(np.int64)
        yield Batch(input_ids, mask, ids, first + rows, n.astype(np.int32), begin, pad_id)


def padding_ratio(batches: Iterable[Batch]) -> float:
    """Return the tokens computed per real one (content and special tokens)."""
    computed = real = 0
    for batch in batches:
        computed += batch.n_computed
        real += int(batch.attention_mask.sum())
    return computed / real


def cut(order: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Cut units sorted by length into batches of rows * longest <= batch_tokens, or one row.

    Args:
        order: int64 [n], the units.
        lengths: int64 [n], their lengths, ascending.
        batch_tokens: tokens per batch.
    """
    start = 0
    while start < len(order):
        # A batch of the next r units is as wide as its last; rows * width grows with r.
        area = np.arange(1, len(order) - start + 1) * lengths[start:]
        rows = max(1, int(np.searchsorted(area, batch_tokens, side="right")))
        yield order[start : start + rows]
        start += rows

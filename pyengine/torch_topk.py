"""Streaming top-k on the CPU: only the blocks whose maximum reaches a threshold are looked at.

After warm-up those are almost none, about k ln(N / k) of N positions per key in all, so a batch
costs one comparison per (block, key). Equal keys collapse, so a batch may be folded twice.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.packed import EMPTY, pack, score_of
from pyengine.rows import Rows, pieces
from pyengine.topk_state import TopKState

CHUNK = 1 << 17  # elements gathered at once
ROUND = 256  # candidates per key merged at once: bounds the memory of a skewed batch
FEW = 4  # mean candidates per key below which they are inserted one by one
DENSE = 0.1  # share of hits above which every block is scanned instead of the hits


class _Fold(NamedTuple):
    """One call of `topk_fold`: views of the state's keys, and the batch."""

    k: int
    floor_key: int
    top: Tensor
    threshold: Tensor
    values: Tensor
    block_max: Tensor
    rows: Rows
    sign: int


class _Hits(NamedTuple):
    """Blocks that may hold a candidate for a key, each int64 [n], by block."""

    block: Tensor
    key: Tensor


def topk_fold(
    state: TopKState,
    values: Tensor,
    block_max: Tensor,
    rows: Rows,
    *,
    first_key: int,
    sign: int,
) -> None:
    """Fold the blocks whose maximum reaches the threshold; see `pyengine.ops.topk_fold`."""
    keys = slice(first_key, first_key + values.shape[2])
    top, threshold = state.top[keys], state.threshold[keys]  # views: updated in place
    fold = _Fold(state.k, state.floor_key, top, threshold, values, block_max, rows, sign)
    bound = score_of(threshold)
    near = block_max >= bound
    n_near = int(near.count_nonzero())
    dense = n_near > DENSE * near.numel()
    if state.per_unit and dense:
        _keep_best(fold, slice(None), _best_of_rows(fold).t())
    elif state.per_unit and n_near:
        _merge(fold, *_best_of_hits(fold, _hits(fold, near)))
    elif n_near:
        if dense and len(block_max) >= state.k:
            # k blocks reach their k-th largest maximum, so nothing below it can stay.
            bound = torch.maximum(bound, block_max.topk(state.k, dim=0).values[-1])
            near = block_max >= bound
        _merge(fold, *_all_of_hits(fold, _hits(fold, near), bound))


def _hits(fold: _Fold, near: Tensor) -> _Hits:
    """Return where the best possible key of a block beats the threshold.

    Comparing keys settles ties with the threshold, which are massive for dead ReLU units.
    """
    block, key = near.nonzero().unbind(1)
    best = pack(fold.block_max[block, key], fold.rows.blocks.first_id[block])
    beats = best > fold.threshold[key]
    return _Hits(block[beats], key[beats])


def _chunks(fold: _Fold, hits: _Hits) -> list[tuple[_Hits, Tensor]]:
    """Cut hits into chunks, each with the steps [longest, n or 1] through its blocks.

    A block shorter than the longest repeats its last position.
    """
    length = fold.rows.blocks.stop - fold.rows.blocks.start
    if not len(hits.key):
        return []
    step = torch.arange(int(length.max()), device=length.device)[:, None]
    n = max(1, CHUNK // len(step))
    found = []
    for block, key in zip(hits.block.split(n), hits.key.split(n), strict=True):
        last = length[block] - 1
        equal = bool((last == len(step) - 1).all())
        found.append((_Hits(block, key), step if equal else torch.minimum(step, last)))
    return found


def _scores(fold: _Fold, hits: _Hits, step: Tensor) -> Tensor:
    """Return values [longest, n] in their dtype; the layout walks along memory."""
    n_positions, n_keys = fold.values.shape[1:]
    row, start, _, _ = (column[hits.block] for column in fold.rows.blocks)
    origin = (row * n_positions + start) * n_keys + hits.key
    flat = fold.values.reshape(-1)  # free for contiguous values
    return torch.take(flat, step * n_keys + origin)


def _best_of_hits(fold: _Fold, hits: _Hits) -> tuple[Tensor, Tensor]:
    """Return (key, packed) of the best position of each hit unit, by key."""
    found = [(hits.key[:0], hits.key[:0], hits.key[:0])]
    for part, step in _chunks(fold, hits):
        score = fold.block_max[part]
        same = _scores(fold, part, step) == (fold.sign * score).to(fold.values.dtype)
        left = _first(same).long()
        row, start, stop, _ = (column[part.block] for column in fold.rows.blocks)
        position = torch.minimum(start + len(step) - left, stop - 1)
        packed = pack(score, fold.rows.ids[row, position])
        hit = (left > 0) & (packed > fold.threshold[part.key])
        found.append((part.key[hit], row[hit], packed[hit]))
    key, row, packed = (torch.cat(column) for column in zip(*found, strict=True))
    n_rows = max(1, len(fold.rows.ids))
    unit, line = (key * n_rows + row).unique(return_inverse=True)  # a row may own several blocks
    best = torch.full_like(unit, EMPTY).scatter_reduce_(0, line, packed, "amax")
    return unit // n_rows, best


def _first(same: Tensor) -> Tensor:
    """Return n - i for the first True of each column of [n, ...], i its index; 0 for none."""
    n = len(same)
    weight = torch.arange(n, 0, -1, dtype=torch.uint8, device=same.device)
    return (same.view(torch.uint8) * weight.view(n, *[1] * (same.ndim - 1))).amax(0)


def _best_of_rows(fold: _Fold) -> Tensor:
    """Return packed [n_rows, F]: the best competing position of each row for each key."""
    first = torch.zeros_like(fold.block_max, dtype=torch.uint8)
    maximum = (fold.sign * fold.block_max).to(fold.values.dtype)
    at = 0
    for first_row, last_row, start, stop in pieces(fold.rows.spans):
        here = slice(at, at + last_row - first_row)
        for t in range(start, stop):
            same = fold.values[first_row:last_row, t] == maximum[here]
            weighted = same.view(torch.uint8).mul_(stop - t)
            torch.maximum(first[here], weighted, out=first[here])
        at = here.stop
    row, _, block_stop, _ = fold.rows.blocks
    position = (block_stop[:, None] - first).clamp(max=fold.rows.ids.shape[1] - 1)
    ids = fold.rows.ids[row].gather(1, position)
    packed = pack(fold.block_max, ids).masked_fill_(first == 0, EMPTY)
    units, line = row.unique(return_inverse=True)
    if len(units) == len(row):
        return packed
    best = packed.new_full((len(units), packed.shape[1]), EMPTY)
    return best.scatter_reduce_(0, line[:, None].expand_as(packed), packed, "amax")


def _all_of_hits(fold: _Fold, hits: _Hits, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Return (key, packed) of every candidate in the hit blocks, by key."""
    found = [(hits.key[:0], hits.key[:0])]
    for part, step in _chunks(fold, hits):
        score = fold.sign * _scores(fold, part, step).float()
        row, start, _, _ = (column[part.block] for column in fold.rows.blocks)
        packed = pack(score, fold.rows.ids[row, start + step])
        packed.masked_fill_(~(score >= bound[part.key]), EMPTY)  # NaN fails the comparison
        at, hit = (packed > fold.threshold[part.key]).nonzero().unbind(1)
        found.append((part.key[hit], packed[at, hit]))
    key, packed = (torch.cat(column) for column in zip(*found, strict=True))
    key, order = key.sort()
    return key, packed[order]


def _merge(fold: _Fold, key: Tensor, packed: Tensor) -> None:
    """Merge candidates, sorted by key, into the top-k; at most ROUND per key at once."""
    while len(key):
        owner, line, count = key.unique_consecutive(return_inverse=True, return_counts=True)
        rank = torch.arange(len(key), device=key.device) - (count.cumsum(0) - count)[line]
        if len(key) < FEW * len(owner):
            now = rank == 0
            _insert(fold, owner, packed[now])
        else:
            now = rank < ROUND
            candidates = packed.new_full((len(owner), int(count.clamp(max=ROUND).max())), EMPTY)
            candidates[line[now], rank[now]] = packed[now]
            _keep_best(fold, owner, candidates)
        later = ~now & (packed > fold.threshold[key])
        key, packed = key[later], packed[later]


def _insert(fold: _Fold, owner: Tensor, packed: Tensor) -> None:
    """Insert one candidate per key into its sorted list; much cheaper than sorting again."""
    kept, new = fold.top[owner], packed[:, None]
    new = new.masked_fill((kept == new).any(1, keepdim=True), EMPTY)  # equal keys collapse
    kept[:, 1:] = torch.maximum(kept[:, 1:], torch.minimum(kept[:, :-1], new))
    kept[:, :1] = torch.maximum(kept[:, :1], new)
    fold.top[owner] = kept
    fold.threshold[owner] = kept[:, -1].clamp(min=fold.floor_key)


def _keep_best(fold: _Fold, owner: Tensor | slice, candidates: Tensor) -> None:
    """Fold `candidates`, [n_owners, any], into the top-k of their keys; equal keys collapse."""
    pool = torch.cat([fold.top[owner], candidates], 1)
    best = pool.topk(fold.k).values
    if ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] != EMPTY)).any():
        pool = pool.sort(descending=True).values
        pool[:, 1:].masked_fill_(pool[:, 1:] == pool[:, :-1], EMPTY)
        best = pool.topk(fold.k).values
    best.masked_fill_(best <= fold.floor_key, EMPTY)
    fold.top[owner] = best
    fold.threshold[owner] = best[:, -1].clamp(min=fold.floor_key)

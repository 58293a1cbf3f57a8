"""The CPU path of `pyengine.ops`: in-place activation, one maximum per block, rescan of the hits.

A block is one row of a rectangle of competing positions, at most `BLOCK` positions long. After
warm-up almost no block maximum reaches its key's threshold, so a batch costs its activation plus
one read for the maxima; only the blocks that reach it are looked at again.
"""

import math

import torch
from torch import Tensor

from pyengine.packed import EMPTY, pack, score_of
from pyengine.rows import BLOCK, NO_ID, Rows, pieces, positions
from pyengine.topk_state import TopKState

CHUNK = 1 << 20  # elements gathered at once
ROUND = 256  # candidates per key merged at once: bounds the memory of a skewed batch
FEW = 4  # mean candidates per key below which they are inserted one by one
DENSE = 0.15  # share of hits above which whole rectangles are scanned instead of single blocks


def ffn_capture(
    pre: Tensor,
    rows: Rows,
    act: str,
    up: Tensor | None,
    value: str,
    signs: tuple[int, ...],
    reuse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (out, values, block_max, n_nan); see `pyengine.ops.ffn_capture`."""
    reuse = reuse and value != "pre"
    out = _activation(pre, act, reuse)
    if up is not None:
        out = out.mul_(up) if reuse or act != "identity" else out * up
    values = pre if value == "pre" else out
    block_max = _block_max(values, rows, signs)
    n_nan = torch.zeros(1, dtype=torch.int64, device=pre.device)
    if block_max.isnan().any():  # amax hands NaN on, so looking at the small tensor is enough
        nan = values.isnan()
        n_nan += (nan & (rows.ids >= 0)[:, :, None]).sum()
        masked = [values.masked_fill(nan, -sign * math.inf) for sign in signs]
        block_max = torch.cat(
            [_block_max(m, rows, (s,)) for m, s in zip(masked, signs, strict=True)]
        )
    return out, values, block_max, n_nan


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
    bound = score_of(threshold)
    near = block_max >= bound
    n_near = int(near.count_nonzero())
    if n_near > DENSE * near.numel():
        if state.per_unit:
            packed = _best_of_every_row(values, block_max, rows, sign)
            _keep_best(state, top, threshold, slice(None), packed.t())
            return
        if len(block_max) >= state.k:
            # k blocks reach their k-th largest maximum, so nothing below it can stay.
            bound = torch.maximum(bound, block_max.topk(state.k, dim=0).values[-1])
            near = block_max >= bound
    if n_near:
        _merge(
            state,
            top,
            threshold,
            *_rescan(state, values, block_max, rows, sign, near, bound, threshold),
        )


def _activation(x: Tensor, act: str, reuse: bool) -> Tensor:
    gelu, gelu_ = torch.nn.functional.gelu, torch.ops.aten.gelu_
    match act, reuse:
        case "identity", _:
            return x
        case "relu", _:
            return torch.relu_(x) if reuse else torch.relu(x)
        case "gelu", _:
            return gelu_(x) if reuse else gelu(x)
        case "gelu_tanh", _:
            return gelu_(x, approximate="tanh") if reuse else gelu(x, approximate="tanh")
        case "silu", _:
            return torch.nn.functional.silu(x, inplace=reuse)
        case "quick_gelu", _:
            gate = torch.sigmoid(1.702 * x)
            return x.mul_(gate) if reuse else gate.mul_(x)
    raise ValueError(f"act must be a known activation, got {act!r}")


def _block_max(values: Tensor, rows: Rows, signs: tuple[int, ...]) -> Tensor:
    """Return float32 [n_signs, n_blocks, F]: the largest sign * value of each block."""
    n_blocks = len(rows.blocks.row)
    maxima = values.new_empty(len(signs), n_blocks, values.shape[2])
    for sign, target in zip(signs, maxima, strict=True):
        at = 0
        reduce = torch.amax if sign > 0 else torch.amin
        for first_row, last_row, start, stop in pieces(rows.spans):
            n = last_row - first_row
            reduce(values[first_row:last_row, start:stop], 1, out=target[at : at + n])
            at += n
        if sign < 0:
            target.neg_()
    return maxima.float()


def _best_of_every_row(values: Tensor, block_max: Tensor, rows: Rows, sign: int) -> Tensor:
    """Return packed [n_rows, F]: the best competing position of each row for each key."""
    ids = torch.full_like(block_max, NO_ID, dtype=torch.int64)
    at = 0
    for first_row, last_row, start, stop in pieces(rows.spans):
        n = last_row - first_row
        maximum, best = sign * block_max[at : at + n], ids[at : at + n]
        for t in range(start, stop):
            reaches = values[first_row:last_row, t] == maximum
            torch.minimum(
                best,
                torch.where(reaches, rows.ids[first_row:last_row, t, None], NO_ID),
                out=best,
            )
        at += n
    packed = pack(block_max, ids).masked_fill_(ids == NO_ID, EMPTY)
    row, line = rows.blocks.row.unique(return_inverse=True)
    if len(row) == len(line):
        return packed
    best = packed.new_full((len(row), packed.shape[1]), EMPTY)
    return best.scatter_reduce_(0, line[:, None].expand_as(packed), packed, "amax")


def _rescan(
    state: TopKState,
    values: Tensor,
    block_max: Tensor,
    rows: Rows,
    sign: int,
    near: Tensor,
    bound: Tensor,
    threshold: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return (key, packed) of the candidates inside the blocks marked in `near`, by key."""
    block, key = near.nonzero().unbind(1)
    best = pack(block_max[block, key], rows.blocks.min_id[block])
    beats = best > threshold[key]  # settles ties with the threshold, massive ones included
    block, key = block[beats], key[beats]
    if not len(key):
        return key, best[beats]
    flat = values.reshape(-1)  # free for contiguous values
    found = []
    for b, k in zip(block.split(CHUNK // BLOCK), key.split(CHUNK // BLOCK), strict=True):
        row = rows.blocks.row[b]
        position, inside = positions(rows.blocks.start[b], rows.blocks.stop[b])
        line = row * rows.ids.shape[1] + position  # [longest, hits]: walks along memory
        score = sign * torch.take(flat, line * values.shape[2] + k).float()
        ids = torch.take(rows.ids, line)
        if state.per_unit:
            scores, score = score, block_max[b, k][None]
            ids = torch.where(scores == score, ids, NO_ID).amin(0, keepdim=True)
            inside = ids < NO_ID
        packed = pack(score, ids).masked_fill_(~(inside & (score >= bound[k])), EMPTY)
        at, hit = (packed > threshold[k]).nonzero().unbind(1)
        found.append((k[hit], row[hit], packed[at, hit]))
    key, row, packed = (torch.cat(column) for column in zip(*found, strict=True))
    if state.per_unit:
        return _best_of_unit(key, row, packed, len(rows.ids))
    key, order = key.sort()
    return key, packed[order]


def _best_of_unit(key: Tensor, row: Tensor, packed: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Keep the best candidate of each (key, row); a row may own several blocks."""
    unit, line = (key * n_rows + row).unique(return_inverse=True)
    best = torch.full_like(unit, EMPTY).scatter_reduce_(0, line, packed, "amax")
    return unit // max(n_rows, 1), best


def _merge(state: TopKState, top: Tensor, threshold: Tensor, key: Tensor, packed: Tensor) -> None:
    """Merge candidates, sorted by key, into `top`; at most ROUND per key at once."""
    while len(key):
        owner, line, count = key.unique_consecutive(return_inverse=True, return_counts=True)
        rank = torch.arange(len(key), device=key.device) - (count.cumsum(0) - count)[line]
        if len(key) < FEW * len(owner):
            now = rank == 0
            _insert(state, top, threshold, owner, packed[now])
        else:
            now = rank < ROUND
            candidates = packed.new_full((len(owner), int(count.clamp(max=ROUND).max())), EMPTY)
            candidates[line[now], rank[now]] = packed[now]
            _keep_best(state, top, threshold, owner, candidates)
        later = ~now & (packed > threshold[key])
        key, packed = key[later], packed[later]


def _insert(
    state: TopKState, top: Tensor, threshold: Tensor, owner: Tensor, packed: Tensor
) -> None:
    """Insert one candidate per key into its sorted list; much cheaper than sorting again."""
    kept, new = top[owner], packed[:, None]
    new = new.masked_fill((kept == new).any(1, keepdim=True), EMPTY)  # equal keys collapse
    kept[:, 1:] = torch.maximum(kept[:, 1:], torch.minimum(kept[:, :-1], new))
    kept[:, :1] = torch.maximum(kept[:, :1], new)
    top[owner] = kept
    threshold[owner] = kept[:, -1].clamp(min=state.floor_key)


def _keep_best(
    state: TopKState,
    top: Tensor,
    threshold: Tensor,
    owner: Tensor | slice,
    candidates: Tensor,
) -> None:
    """Fold `candidates`, [n_owners, any], into the top-k of their keys; equal keys collapse."""
    pool = torch.cat([top[owner], candidates], 1)
    best = pool.topk(state.k).values
    if ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] != EMPTY)).any():
        pool = pool.sort(descending=True).values
        pool[:, 1:].masked_fill_(pool[:, 1:] == pool[:, :-1], EMPTY)
        best = pool.topk(state.k).values
    best.masked_fill_(best <= state.floor_key, EMPTY)
    top[owner] = best
    threshold[owner] = best[:, -1].clamp(min=state.floor_key)

"""The CUDA path of `pyengine.ops`: append candidates, merge them, never wait for the device."""

import torch
from torch import Tensor

from pyengine.kernels._launch import BLOCK_ROWS
from pyengine.kernels.topk_append import topk_append
from pyengine.kernels.topk_merge import MAX_K, topk_merge
from pyengine.packed import EMPTY
from pyengine.topk_state import TopKState

WIDE_CHUNK = 1 << 24  # keys sorted at once by the torch merge for k > MAX_K


def topk_fold(
    state: TopKState,
    values: Tensor,
    block_max: Tensor,
    ids: Tensor,
    *,
    first_key: int,
    sign: int,
    seen: int,
    careful: bool,
) -> None:
    """Fold a batch in slices that grow with what has been seen; see `pyengine.ops.topk_fold`.

    The first positions all pass an empty threshold. A slice as long as everything before it
    lets about k of its candidates per key through, so the lists stay short.
    """
    keys = slice(first_key, first_key + values.shape[2])
    lists = state.threshold[keys], state.candidates[keys], state.counts[keys]
    end = len(ids) if state.per_unit else -(-ids.numel() // BLOCK_ROWS)
    unit = 1 if state.per_unit else BLOCK_ROWS  # competitors per step of a slice, at most
    first = 0
    if careful:
        merge(state, keys)  # a full list leaves no room for the first slice
    while first < end:
        room = state.capacity if careful else max(state.capacity, seen + first * unit)
        last = min(end, first + room // unit)
        topk_append(
            values,
            block_max,
            ids,
            *lists,
            sign=sign,
            per_unit=state.per_unit,
            first=first,
            last=last,
        )
        if last < end or careful:
            merge(state, keys)
        first = last


def merge(state: TopKState, keys: slice = slice(None)) -> None:
    """Merge the pending candidates of `keys`."""
    lists = state.candidates[keys], state.counts[keys], state.overflow
    merge_here = topk_merge if state.k <= MAX_K else _merge_wide
    merge_here(state.top[keys], state.threshold[keys], *lists, floor_key=state.floor_key)


def _merge_wide(
    top: Tensor,
    threshold: Tensor,
    candidates: Tensor,
    counts: Tensor,
    overflow: Tensor,
    *,
    floor_key: int,
) -> None:
    """Do what `topk_merge` does, for any k: torch sorts on the device, every key, slower."""
    step = max(1, WIDE_CHUNK // (top.shape[1] + candidates.shape[1]))
    slot = torch.arange(candidates.shape[1], device=top.device)
    overflow |= (counts > candidates.shape[1]).any().int()
    counts.masked_fill_(counts > candidates.shape[1], 0)
    for first in range(0, len(top), step):
        part = slice(first, first + step)
        new = candidates[part].masked_fill(slot >= counts[part, None], EMPTY)
        pool = torch.cat([top[part], new], 1).sort(descending=True).values
        pool[:, 1:].masked_fill_(pool[:, 1:] == pool[:, :-1], EMPTY)
        top[part] = pool.topk(top.shape[1]).values
        threshold[part] = top[part, -1].clamp(min=floor_key)
    counts.zero_()

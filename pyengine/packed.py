"""Packed keys: one int64 that orders by (score descending, id ascending), so ties cannot happen.

The upper half holds the float32 score in order-preserving bits, the lower half the inverted id.
"""

import math

import torch
from torch import Tensor

EMPTY = -(2**63)  # no entry; below every key


def pack(scores: Tensor, ids: Tensor) -> Tensor:
    """Return the int64 keys of (score, id): larger is a higher score, then a lower id.

    -0.0 counts as +0.0. NaN has no key: mask it before.
    """
    bits = (scores.float() + 0.0).view(torch.int32)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) | (0xFFFFFFFF - ids)


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return (float32 scores, int64 ids) of packed keys; EMPTY gives (NaN, -1)."""
    empty = keys == EMPTY
    scores = score_of(keys).masked_fill(empty, math.nan)
    return scores, (0xFFFFFFFF - (keys & 0xFFFFFFFF)).masked_fill(empty, -1)


def score_of(keys: Tensor) -> Tensor:
    """Return the float32 score of each key; EMPTY gives -inf, which every score reaches."""
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores.masked_fill(keys == EMPTY, -math.inf)


def floor_key(floor: float) -> int:
    """Return the largest key whose score is `floor`: the keys above it score more."""
    return int(pack(torch.tensor(floor), torch.tensor(0)))

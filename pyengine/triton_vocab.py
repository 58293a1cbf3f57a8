"""The CUDA path of `vocab_project`: two passes of kernels, and what lies between them in torch."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.kernels._launch import vocab_launch
from pyengine.kernels.vocab_rank import PACK, vocab_rank
from pyengine.kernels.vocab_reduce import VocabTiles, vocab_reduce
from pyengine.torch_vocab import best_of, distribution

CHUNK_BYTES = 384 << 20  # of what is kept for the rows in flight, temporaries included
LARGEST_STRIDE = 1 << 23  # offsets inside a tile are 32-bit


class _Chosen(NamedTuple):
    """The m best tiles of each row, [R, m], and where each tile of a row goes, [n_tiles, R]."""

    tiles: Tensor
    slots: Tensor


def vocab_project(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, m: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of `Projection`; see `pyengine.vocab_project.vocab_project`.

    Raises:
        PyengineError: for float64, which the kernels do not know.
    """
    if torch.float64 in (x.dtype, weight.dtype):
        raise PyengineError(
            "float64 logits need the torch path on this device: set PYENGINE_BACKEND=torch"
        )
    x, weight = (t if max(t.stride()) < LARGEST_STRIDE else t.contiguous() for t in (x, weight))
    bias = None if bias is None else bias.float().contiguous()
    step = chunk_rows(len(weight), vocab_launch(x, weight).block_v, targets.shape[1], m)
    parts = [
        _project(rows, weight, bias, wanted, m)
        for rows, wanted in zip(x.split(step), targets.split(step), strict=True)
    ]
    top, ids, lse, entropy, logits, ranks, bottom = map(torch.cat, zip(*parts, strict=True))
    return top, ids, lse, entropy, logits, ranks, bottom


def chunk_rows(vocab: int, block_v: int, n_targets: int, m: int) -> int:
    """Return how many rows go through both passes at once."""
    n_tiles = -(-vocab // block_v)
    per_row = n_tiles * 72 + min(m, n_tiles) * block_v * 44 + n_targets * 48
    return max(1, CHUNK_BYTES // per_row)


def _project(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, m: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    n_targets = targets.shape[1]
    padded = torch.nn.functional.pad(targets, (0, -n_targets % PACK.value), value=-1)
    wanted = padded.t().int().contiguous()
    tiles = vocab_reduce(x, weight, bias, wanted)
    wrong = tiles.s.isnan().any(1)
    chosen = _choose(tiles, m) if m > 1 else None
    slots = None if chosen is None else chosen.slots
    ranks, kept = wanted, x
    if n_targets or chosen is not None:
        n_kept = 0 if chosen is None else chosen.tiles.shape[1]
        ranks, kept = vocab_rank(x, weight, bias, wanted, tiles.target_logits, slots, n_kept)
    block_v = vocab_launch(x, weight).block_v
    if chosen is None:
        top, ids = tiles.highest.amax(1, keepdim=True), _token(tiles.highest, tiles.best, block_v)
    else:
        column = torch.arange(block_v, device=x.device)
        tokens = (chosen.tiles[:, :, None] * block_v + column).flatten(1)
        top, ids = best_of(kept.transpose(0, 1).flatten(1), tokens, m)
    bottom = _token(-tiles.lowest, tiles.worst, block_v)[:, 0]
    none = targets < 0
    return (
        top.masked_fill(wrong[:, None], math.nan),
        ids.masked_fill(wrong[:, None], -1),
        *_combine(tiles),
        tiles.target_logits[:n_targets].t(),
        ranks[:n_targets].t().long().masked_fill(none | wrong[:, None], -1),
        bottom.masked_fill(wrong, -1),
    )


def _choose(tiles: VocabTiles, m: int) -> _Chosen:
    """Choose the tiles that hold the m best tokens: higher maximum, then lower tile."""
    n_tiles = tiles.highest.shape[1]
    number = torch.arange(n_tiles, device=tiles.highest.device)
    chosen = best_of(tiles.highest, number, min(m, n_tiles)).ids
    slots = torch.full_like(tiles.best, -1).t().contiguous()
    slot = torch.arange(chosen.shape[1], device=chosen.device, dtype=torch.int32)
    slots.scatter_(0, chosen.t(), slot[:, None].expand(-1, len(chosen)))
    return _Chosen(chosen, slots)


def _token(value: Tensor, column: Tensor, block_v: int) -> Tensor:
    """Return [R, 1], the token of the first tile with the largest value."""
    tile = value.argmax(1, keepdim=True)
    return tile * block_v + column.gather(1, tile)


def _combine(tiles: VocabTiles) -> tuple[Tensor, Tensor]:
    """Return (lse, entropy) of all tiles, summed in float64."""
    highest = tiles.highest.amax(1, keepdim=True)
    below = (tiles.highest - highest).double().clamp(min=-1e4)
    below.masked_fill_(tiles.highest == highest, 0)  # also for equal infinities
    share = below.exp()
    s = (tiles.s * share).sum(1)
    u = ((tiles.u + below * tiles.s) * share).sum(1)
    lse, entropy = distribution(highest[:, 0].double(), s, u)
    return lse.float(), entropy.float()

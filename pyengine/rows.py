"""Which positions of a padded batch compete, and how they are cut into blocks."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 64  # positions; short enough that a hit is cheap to look at again


class Span(NamedTuple):
    """Rows [first_row, last_row) x positions [start, stop) of a batch, all competing."""

    first_row: int
    last_row: int
    start: int
    stop: int


class Blocks(NamedTuple):
    """Row, extent and first (so lowest) id of every block, each int64 [n_blocks]."""

    row: Tensor
    start: Tensor
    stop: Tensor
    first_id: Tensor


class Rows:
    """Which positions of a [B, T] batch compete, and under which ids.

    Args:
        ids: int64 [B, T] in [0, 2**32 - 2], distinct within the batch and ascending along each
            row; -1 = does not compete. On the device of the activations.

    Raises:
        ValueError: if the shape or dtype is wrong; from `blocks` if a run does not ascend.
    """

    def __init__(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.dtype != torch.int64:
            raise ValueError(f"ids must be int64 [B, T], got {ids.dtype} {tuple(ids.shape)}")
        self.ids = ids

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Return the maximal runs of competing positions; equal runs of adjacent rows are one."""
        runs = _runs((self.ids >= 0).cpu())
        spans, first = [], 0
        for row in range(1, len(runs) + 1):
            if row == len(runs) or runs[row] != runs[first]:
                spans += [Span(first, row, start, stop) for start, stop in runs[first]]
                first = row
        return tuple(spans)

    @cached_property
    def blocks(self) -> Blocks:
        """Return the blocks of the torch path."""
        return _cut_blocks(self.ids, self.spans)


def _cut_blocks(ids: Tensor, spans: tuple[Span, ...]) -> Blocks:
    """Cut the rectangles into blocks, in the order in which `ffn_capture` writes their maxima."""
    if ((ids[:, 1:] <= ids[:, :-1]) & (ids[:, 1:] >= 0)).any():
        raise ValueError("ids must ascend along each row")
    rows: list[int] = []
    starts: list[int] = []
    stops: list[int] = []
    for first_row, last_row, start, stop in pieces(spans):
        rows += range(first_row, last_row)
        starts += [start] * (last_row - first_row)
        stops += [stop] * (last_row - first_row)
    row, start, stop = torch.tensor([rows, starts, stops], dtype=torch.int64, device=ids.device)
    return Blocks(row, start, stop, ids[row, start])


def pieces(spans: tuple[Span, ...]) -> list[tuple[int, int, int, int]]:
    """Cut each span into runs of at most BLOCK positions."""
    return [
        (first_row, last_row, s, min(s + BLOCK, stop))
        for first_row, last_row, start, stop in spans
        for s in range(start, stop, BLOCK)
    ]


def _runs(competes: Tensor) -> list[list[tuple[int, int]]]:
    """Return the [start, stop) runs of True of each row."""
    edge = torch.nn.functional.pad(competes.byte(), (1, 1)).diff(dim=1) != 0
    runs: list[list[tuple[int, int]]] = [[] for _ in range(len(competes))]
    borders = iter(edge.nonzero().tolist())
    for (row, start), (_, stop) in zip(borders, borders, strict=False):
        runs[row].append((start, stop))
    return runs

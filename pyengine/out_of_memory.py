"""What to do when a batch does not fit into the memory: compute it in parts."""

from collections.abc import Iterator

import numpy as np
import torch

from pyengine.batches import Batch
from pyengine.errors import PyengineError


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory could not be had."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
        or ("DefaultCPUAllocator" in text and "memory" in text)
    )


def next_split(error: Exception, split: int, n_rows: int) -> int:
    """Return into how many parts to cut a batch of `n_rows` after an error in `split` parts.

    Raises:
        Exception: the error itself, unless it means that memory could not be had.
        PyengineError: if single units were tried already.
    """
    if not is_out_of_memory(error):
        raise error
    if split > n_rows:
        raise PyengineError("out of memory on a single unit; shorten the units") from error
    return 2 * split


def batch_pieces(
    batch: Batch, decoder: Batch | None, split: int
) -> Iterator[tuple[Batch, Batch | None]]:
    """Cut a batch into `split` groups of rows, keeping the padded length."""
    if split == 1:
        yield batch, decoder
        return
    for rows in np.array_split(np.arange(len(batch.units)), min(split, len(batch.units))):
        yield batch.rows(rows), None if decoder is None else decoder.rows(rows)

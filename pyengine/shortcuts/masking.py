"""Masked language models read the mask token in the place of what is drawn."""

from dataclasses import replace

import numpy as np

from pyengine.batches import Batch


def masked(batch: Batch, rows: np.ndarray, columns: np.ndarray, mask_id: int) -> Batch:
    """Return the batch with the mask token in some places; what it was copied to is left behind."""
    input_ids = batch.input_ids.copy()
    input_ids[rows, columns] = mask_id
    return replace(batch, input_ids=input_ids, copies={})

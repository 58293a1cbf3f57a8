"""Count, mean, sum of squared deviations and extremes of a sample, and those of two joined.

Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample
Variances", equation 2.1.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def summarize(values: Tensor, left_out: Tensor | None) -> dict[str, Tensor]:
    """Return count, mean, squares, min and max of each column, as `join` takes them.

    Args:
        values: float32 [n, F], n >= 1.
        left_out: bool [n, F], what does not count; None: all count, and none is NaN.
    """
    if left_out is None:
        wide = values.double()
        count = wide.new_full(wide.shape[1:], len(wide), dtype=torch.int64)
        mean = wide.sum(0) / len(wide)
        wide -= mean
        low, high = values.amin(0), values.amax(0)
    else:
        wide = values.double().masked_fill_(left_out, 0)
        count = len(wide) - left_out.sum(0)
        mean = wide.sum(0) / count.clamp(min=1)
        wide = (wide - mean).masked_fill_(left_out, 0)
        low = values.masked_fill(left_out, math.inf).amin(0)
        high = values.masked_fill(left_out, -math.inf).amax(0)
    squares = torch.linalg.vecdot(wide, wide, dim=0)
    return {"count": count, "mean": mean, "squares": squares, "min": low, "max": high}


def join(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Add `theirs` to `mine`, in place; exact where one of the two is empty."""
    ours = mine["count"].double()
    share = theirs["count"] / (ours + theirs["count"]).clamp(min=1)
    delta = theirs["mean"] - mine["mean"]
    mine["mean"].add_(delta * share)
    mine["squares"].add_(theirs["squares"] + delta.square() * (ours * share))
    mine["count"].add_(theirs["count"])
    torch.minimum(mine["min"], theirs["min"], out=mine["min"])
    torch.maximum(mine["max"], theirs["max"], out=mine["max"])

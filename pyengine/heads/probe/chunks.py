"""Which heads are probed together: as many as the memory of the device and its caches hold."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.heads.probe.features import Vectors, features
from pyengine.heads.probe.training import STEP_BYTES
from pyengine.heads.probe_settings import ProbeSettings

# Of the features of all examples of a task.
FEATURE_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}


class Progress:
    """Counts the fits that have ended, for a callback."""

    def __init__(self, total: int, told: Callable[[int, int], None] | None) -> None:
        self._total, self._told, self._done = total, told, 0

    def advance(self, n: int) -> None:
        """Count some more."""
        self._done += n
        if n and self._told is not None:
            self._told(self._done, self._total)


def heads_together(
    device: torch.device, n_examples: int, width: int, n_outputs: int, settings: ProbeSettings
) -> int:
    """Return how many heads are trained together, at least one.

    Args:
        device: where.
        n_examples: of all parts.
        width: of a head's features.
        n_outputs: of its probe.
        settings: of its training.
    """
    logits = len(settings.regularisers) * (n_outputs + settings.hidden)
    step = 4 * settings.batch_size * (width + 2 * logits)
    limits = STEP_BYTES[device.type] // step, FEATURE_BYTES[device.type] // (4 * n_examples * width)
    return max(1, min(limits))


def slices(n_heads: int, size: int) -> list[slice]:
    """Cut heads into chunks of at most `size`."""
    return [slice(begin, min(begin + size, n_heads)) for begin in range(0, n_heads, size)]


def chunk_features(
    x: Vectors,
    rows: np.ndarray,
    heads: slice,
    device: torch.device,
    names: Sequence[str] | None = None,
    pairs_too: bool = False,
) -> Tensor:
    """Return the features of some heads on the device, float32 [n, heads, d].

    Raises:
        PyengineError: naming the first head with vectors that are not finite.
    """
    found = features(x, rows, heads, pairs_too).to(device)
    if torch.isfinite(found.sum()):  # one pass; a sum may overflow where nothing is wrong
        return found
    bad = (~torch.isfinite(found)).any(-1).any(0).nonzero()
    if len(bad):
        head = heads.start + int(bad[0])
        told = names[head] if names else f"head {head}"
        raise PyengineError(
            f"the vectors of {told} hold NaN or infinities: leave it out, or extract them again "
            "in float32"
        )
    return found

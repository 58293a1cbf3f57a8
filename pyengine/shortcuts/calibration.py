"""Whether a mapped distribution is as sure of its best token as the model itself is of that token.

Confidence is the mapped distribution's probability of its best token; the share that is right is
the model's own probability of it: how often the token would be right if the next one were drawn
from the model's own output. The expected calibration error (Naeini et al. 2015) is then
Σ over bins n_b / n · |share right - mean confidence|, over ten bins of confidence of equal width,
upper edges within. The model's own output has none.
"""

import numpy as np

BINS = 10
EDGES = np.linspace(0, 1, BINS + 1)


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """Return the bin of each confidence, int64: 0 holds up to 0.1, 9 what lies above 0.9."""
    return np.searchsorted(EDGES[1:-1], confidence, side="left")


def expected_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error of [n] values from 0 to 1; NaN if one of them is."""
    own = right.astype(np.float64) - confidence.astype(np.float64)
    return float(np.abs(np.bincount(bin_of(confidence), own, BINS)).sum() / len(own))


def reliability(confidence: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each bin holds: bin, from, to, n, and means of both (NaN where it is empty)."""
    bins = bin_of(confidence)
    n = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        sure, share = (
            np.bincount(bins, values.astype(np.float64), BINS) / n for values in (confidence, right)
        )
    return {
        "bin": np.arange(BINS, dtype=np.int32),
        "from": EDGES[:-1],
        "to": EDGES[1:],
        "n": n,
        "confidence": sure,
        "right": share,
    }

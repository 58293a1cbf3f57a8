"""What the bindings of the C++ top-k refuse: nothing is converted, and nothing written beyond."""

from typing import Any

import numpy as np
import pytest

from pyengine import _native

HEAPS: dict[str, Any] = {
    "entries": np.zeros((2, 5), np.int64),
    "counts": np.zeros(2, np.int32),
    "thresholds": np.zeros(2, np.int64),
    "newest": np.zeros(2, np.int64),
    "repeats": np.zeros(2, np.uint8),
}
FROZEN = np.zeros(2, np.int64)
FROZEN.flags.writeable = False


@pytest.mark.parametrize(
    ("heaps", "arguments", "message"),
    [
        ({}, {"k": 0}, "k is 0, must be at least 1 and below the capacity, 5"),
        ({}, {"k": 5}, "k is 5, must be"),
        ({}, {"sign": 2}, "sign is 2, must be 1 or -1"),
        ({}, {"n_threads": -1}, "n_threads is -1, below 0"),
        ({"counts": np.zeros(2, np.int64)}, {}, "counts must be a 1-D int32 array, not int64"),
        ({"counts": np.zeros(3, np.int32)}, {}, r"counts must have shape \(2,\), not \(3,\)"),
        ({"newest": FROZEN}, {}, "newest must be contiguous, aligned and writeable"),
        ({"entries": np.zeros((5, 2), np.int64).T}, {}, "entries must be contiguous, aligned"),
        ({}, {"values": np.zeros((1, 1, 3), np.float32)}, r"values have shape \(1, 1, 3\), the he"),
        ({}, {"values": np.zeros((1, 1, 2))}, "values must be a 3-D float32 array, not float64"),
        ({}, {"values": np.zeros((1, 1, 4), np.float32)[..., ::2]}, "contiguous along the keys"),
        ({}, {"ids": np.zeros((1, 2), np.int64)}, r"ids have shape \(1, 2\), values \(1, 1, 2\)"),
        (
            {},
            {"undo": {"counts": np.zeros(1, np.int32)}},
            r"undo counts must have shape \(2,\), not \(1,\)",
        ),
    ],
)
def test_malformed_arrays_are_refused(
    heaps: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    usual: dict[str, Any] = {
        "undo": {},
        "values": np.zeros((1, 1, 2), np.float32),
        "ids": np.zeros((1, 1), np.int64),
        "k": 2,
    }
    with pytest.raises(ValueError, match=message):
        _native.fold_topk(HEAPS | heaps, **usual | arguments)

"""Vectors to probe, drawn: some heads tell the classes well, others hardly."""

from typing import Any

import numpy as np

Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def drawn(
    sizes: dict[str, int], n_heads: int, width: int, n_classes: int, seed: int = 0
) -> tuple[np.ndarray, Parts]:
    """Return vectors [n, H, d] of all sentences, and parts of them, in another order."""
    rng = np.random.default_rng(seed)
    n = sum(sizes.values())
    classes = rng.integers(0, n_classes, n)
    classes[:n_classes] = np.arange(n_classes)
    means = rng.normal(size=(n_classes, n_heads, width)) * np.linspace(0.05, 0.6, n_heads)[:, None]
    x = (rng.normal(size=(n, n_heads, width)) + means[classes]).astype(np.float32)
    order, begin, parts = rng.permutation(n), 0, {}
    for name, size in sizes.items():
        rows = order[begin : begin + size]
        parts[name] = rows[:, None], classes[rows]
        begin += size
    return x, parts


def of_head(x: np.ndarray, part: tuple[np.ndarray, np.ndarray], head: int) -> Any:
    """Return what the plain procedure takes: features [n, d] and targets of one head."""
    rows, targets = part
    return np.ascontiguousarray(x[rows[:, 0], head]), targets

"""95 % intervals of means: units are drawn again with replacement, with all of their rows."""

import numpy as np

from pyengine.checks import check_count
from pyengine.errors import PyengineError

INTERVAL = (0.025, 0.975)
# Resamples that are counted at once, over all their units.
BLOCK_CELLS = 1 << 22


class Bootstrap:
    """Resamples of the units that rows belong to: the same ones for everything that is asked.

    Args:
        units: int64 [n], the unit of each row, ascending.
        resamples: how many; 0 gives no intervals (NaN).
        seed: of NumPy's default generator.
    """

    def __init__(self, units: np.ndarray, resamples: int = 1000, seed: int = 0) -> None:
        check_count("bootstrap", resamples or None)
        if seed < 0:
            raise PyengineError(f"seed must be at least 0, got {seed}")
        changes = np.flatnonzero(units[1:] != units[:-1]) + 1
        self._starts = np.concatenate([[0], changes])
        self._sizes = np.diff(np.append(self._starts, len(units))).astype(np.float64)
        self._resamples, self._seed = resamples, seed

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of each column in every resample.

        Args:
            values: [n, m], one row for each of `units`.

        Returns:
            float64 [resamples, m].
        """
        sums = np.add.reduceat(values, self._starts, axis=0, dtype=np.float64)
        generator = np.random.default_rng(self._seed)
        n_units, found = len(self._starts), np.empty((self._resamples, values.shape[1]))
        step = max(1, BLOCK_CELLS // n_units)
        for first in range(0, self._resamples, step):
            part = found[first : first + step]
            drawn = generator.integers(0, n_units, (len(part), n_units))
            drawn += np.arange(len(part))[:, None] * n_units
            counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
            weights = counts.astype(np.float64)
            part[:] = (weights @ sums) / (weights @ self._sizes)[:, None]
        return found

    def intervals(self, replicates: np.ndarray) -> np.ndarray:
        """Return the ends of each column's interval, float64 [2, m]: percentiles of `means`."""
        if not len(replicates):
            return np.full((2, replicates.shape[1]), np.nan)
        return np.quantile(replicates, INTERVAL, axis=0)

"""Rows of token offsets: the table of small corpora answers as the search of large ones."""

import numpy as np
import pytest

from pyengine.units import _rows


@pytest.mark.parametrize("seed", range(20))
def test_the_table_answers_as_the_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        starts = np.unique(rng.integers(0, 100, rng.integers(1, 20)))
        ids = rng.integers(-1, rng.integers(1, 150), (rng.integers(0, 400), 1))
        expected = np.searchsorted(starts, ids, side="right") - 1
        assert np.array_equal(_rows(starts, ids), expected)

"""Bins of equal width: the arithmetic guess is put right wherever float32 rounds."""

import math

import pytest
import torch

from pyengine.reducers import histogram


@pytest.mark.parametrize(
    ("bins", "low", "high"),
    [
        (100, -3.0, 3.0),
        (1, 0.0, 1.0),
        (65536, -3.3, 7.7),
        (1000, 1e6, 1e6 + 125),  # two float32 to a bin
        (16, 2.0**24, 2.0**24 + 64),
        (7, -1e-3, 1e30),
        (3, 0.0, 1e-37),
        (9, -1.6e38, 1.6e38),
        (60000, 0.9, 1.0),
    ],
)
def test_the_bins_are_those_of_a_binary_search(bins: int, low: float, high: float) -> None:
    table = histogram.Bins(bins, low, high, "cpu")
    edges, inf = table.edges, torch.tensor(math.inf)
    inside = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    extremes = torch.tensor([math.inf, -math.inf, 0.0, -0.0, 3.4e38, -3.4e38])
    values = torch.cat([inside, edges, edges.nextafter(inf), edges.nextafter(-inf), extremes])
    assert torch.equal(table.of(values), torch.bucketize(values, edges, right=True))

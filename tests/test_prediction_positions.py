"""Which position of each unit is looked at."""

import numpy as np
from prediction_helpers import predict, random_units
from tiny_models import tiny_model

from pyengine.positions import choose_positions


def test_positions_depend_on_seed_and_unit_only() -> None:
    hf, units = tiny_model("gpt2"), random_units(60)

    def drawn(units: list[list[int]], seed: int, batch_tokens: int = 40) -> list[int]:
        found = predict(hf, units, seed=seed, layers=[0], batch_tokens=batch_tokens)
        return found.examples["position"].to_pylist()

    first = drawn(units, 0)
    assert first == drawn(units, 0, batch_tokens=400)
    assert first[:20] == drawn(units[:20], 0)
    assert first != drawn(units, 1)
    assert all(0 <= p < len(unit) for p, unit in zip(first, units, strict=True))


def test_random_positions_are_even() -> None:
    _, drawn = choose_positions("random", 3, np.arange(40_000), np.full(40_000, 8))
    counts = np.bincount(drawn, minlength=8)
    assert (np.abs(counts - 5000) < 5 * np.sqrt(5000)).all()

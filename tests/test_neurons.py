"""Sets of neurons: boundaries of every selector, sharing, Dai et al.'s search, relations."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyengine import Neuron, PyengineError
from pyengine.neurons import coarse_neurons, relation_neurons, shared_neurons, tuned_share

SCORES = torch.tensor([[0.0, 3.0, -9.0], [10.0, 5.0, 3.0]])


def neurons(*pairs: tuple[int, int]) -> list[Neuron]:
    return [Neuron(*pair) for pair in pairs]


def test_equal_is_not_above() -> None:
    assert coarse_neurons(SCORES, threshold=3.0) == neurons((1, 0), (1, 1))
    assert coarse_neurons(SCORES, adaptive=0.5) == neurons((1, 0))
    assert coarse_neurons(SCORES, adaptive=0.3) == neurons((1, 0), (1, 1))
    assert coarse_neurons(SCORES, threshold=-10) == neurons(
        *((i, j) for i in (0, 1) for j in range(3))
    )
    assert coarse_neurons(SCORES, percentile=100) == []


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30), st.floats(0, 100))
def test_percentile_is_numpys(values: list[int], percentile: float) -> None:
    scores = torch.tensor(values, dtype=torch.float32)[None]
    limit = np.percentile(np.array(values, np.float32), percentile)
    expected = [(0, i) for i, value in enumerate(values) if value > limit]
    assert coarse_neurons(scores, percentile=percentile) == expected


def test_nothing_stands_out_where_no_score_is_above_zero() -> None:
    assert coarse_neurons(-SCORES.abs(), adaptive=0.3) == []
    assert coarse_neurons(torch.zeros(2, 3), adaptive=0.0) == []
    assert coarse_neurons(torch.full((1, 2), torch.nan), adaptive=0.3) == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "exactly one"),
        ({"threshold": 1.0, "percentile": 5.0}, "exactly one"),
        ({"adaptive": 1.5}, "0 to 1"),
        ({"percentile": 101.0}, "0 to 100"),
    ],
)
def test_bad_selectors(how: dict[str, float], message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        coarse_neurons(SCORES, **how)


def test_shared_neurons_are_in_more_than_the_share_of_the_sets() -> None:
    sets = [neurons((1, 5), (0, 2), (1, 5)), neurons((0, 2)), neurons((3, 3)), neurons((3, 3))]
    assert shared_neurons(sets, 0.25) == neurons((0, 2), (3, 3))  # one named twice counts once
    assert shared_neurons(sets, 0.5) == []
    assert shared_neurons(sets, 0) == neurons((1, 5), (0, 2), (3, 3))
    assert shared_neurons([], 0.5) == []
    for share in (-0.1, 1.0):
        with pytest.raises(PyengineError, match="share"):
            shared_neurons(sets, share)


def fact(*counts: int, n_prompts: int = 10) -> list[list[Neuron]]:
    """A fact whose i-th neuron stands out in counts[i] of its prompts."""
    return [
        [Neuron(0, i) for i, count in enumerate(counts) if prompt < count]
        for prompt in range(n_prompts)
    ]


def test_the_share_is_tuned_up_and_down_and_not_for_ever() -> None:
    share, sets = tuned_share([fact(7, 7, 10)])
    assert share == 0.7 and sets == [neurons((0, 0), (0, 1), (0, 2))]  # 7 of 10 is enough
    share, sets = tuned_share([fact(*[7] * 6, 9, 8)])
    assert share == 0.75 and len(sets[0]) == 2
    share, sets = tuned_share([fact(6, 5)])
    assert share == 0.5 and len(sets[0]) == 2
    share, sets = tuned_share([fact(10)])
    assert share == 0.4 and len(sets[0]) == 1  # six steps, then it is left at that


def test_facts_with_few_prompts_have_no_say_and_no_neurons() -> None:
    share, sets = tuned_share([fact(10, 10), fact(*[2] * 50, n_prompts=2)])
    assert share == 0.7 and len(sets[0]) == 2 and sets[1] == []
    assert tuned_share([fact(1, n_prompts=2)]) == (0.7, [[]])


def test_neurons_of_a_relation_are_in_a_tenth_of_its_facts() -> None:
    facts = [neurons((1, 1)), neurons((1, 1), (0, 9)), neurons((0, 9), (2, 0))]
    facts += [neurons() for _ in range(17)]
    assert relation_neurons(facts) == {Neuron(0, 9): 2, Neuron(1, 1): 2}
    assert list(relation_neurons(facts)) == neurons((0, 9), (1, 1))
    assert relation_neurons(facts, share=0.05)[Neuron(2, 0)] == 1

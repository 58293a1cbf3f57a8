"""The points that shortcuts lead between: names, taps and pairs of every family."""

from itertools import pairwise

import pytest
from tiny_models import FAMILIES, tiny_model

import pyengine
from pyengine.errors import PyengineError
from pyengine.hooked import run_with_cache
from pyengine.shortcuts.points import ADD, ALL, points_of, stacks_of

STEPS = {
    "gpt2": ["norm", "attention", "add", "norm", "ffn", "add"],
    "gpt_neo": ["norm", "attention", "add", "norm", "ffn", "add"],
    "openai-gpt": ["attention", "add", "norm", "ffn", "add", "norm"],
    "bert": ["attention", "add", "norm", "ffn", "add", "norm"],
    "electra": ["attention", "add", "norm", "ffn", "add", "norm"],
    "encoder": ["norm", "attention", "add", "norm", "ffn", "add"],
    "decoder": ["norm", "attention", "add", "norm", "cross", "add", "norm", "ffn", "add"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_follow_each_other(family: str) -> None:
    model = pyengine.load((tiny_model(family), None))
    ids = [[5, 9, 13, 2, 40]]
    inputs = {"input_ids": ids}
    if model.family.encoder_decoder:
        inputs["decoder_input_ids"] = ids
    _, cache = run_with_cache(model, inputs, return_type=None)
    for stack in stacks_of(model):
        points = points_of(model, stack, sub_modules=True)
        layers = [layer for layer in model.layers if layer.stack.name == stack]
        assert points.n_blocks == len(layers) == len(points.taps)
        name = stack if family.startswith("t5") else family
        assert list(points.steps) == STEPS[name]
        values = [cache[site.name] for site in points.sites]
        for block, taps in enumerate(points.taps):
            assert (taps[0], taps[-1]) == (block, block + 1)
            # An addition adds what its sub-module computed to the stream of before.
            for number, (a, b) in enumerate(pairwise(taps)):
                if points.steps[number] == ADD:
                    start = max(n for n in range(number) if _is_stream(points.steps, n))
                    assert (values[taps[start]] + values[a] - values[b]).abs().max() < 1e-4


def _is_stream(steps: tuple[str, ...], tap: int) -> bool:
    """Whether tap `tap` is the residual stream: the block's input, a sum, BERT's norm of one."""
    if tap == 0:
        return True
    if steps[0] == "attention":  # BERT: the norm comes after the sum, and is what goes on
        return steps[tap - 1] == "norm"
    return steps[tap - 1] == ADD


def test_pairs_and_their_names() -> None:
    points = points_of(pyengine.load((tiny_model("gpt2"), None)), "decoder", sub_modules=True)
    assert points.pairs()[:4] == [(0, 3), (1, 3), (2, 3), (0, 4)]
    named = [points.name(*pair) for pair in points.pairs(ALL)]
    assert named[:6] == ["0_1", "0_2", "0_3", "1_2", "1_3", "2_3"]
    assert named[6:12] == [f"p0_{a}_{a + 1}" for a in range(6)]
    assert len(set(named)) == len(named) == 6 + 3 * 6
    with pytest.raises(PyengineError, match="no map from point 4 to point 12"):
        points.name(4, 12)
    with pytest.raises(PyengineError, match="unknown pairs 'first'"):
        points.pairs("first")


def test_a_stack_that_is_not_there_is_named() -> None:
    model = pyengine.load((tiny_model("bert"), None))
    with pytest.raises(PyengineError, match="has no decoder; its stacks are: encoder"):
        points_of(model, "decoder")

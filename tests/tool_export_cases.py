"""What the tests of exports for other tools share: a corpus, and runs over it."""

from typing import Any

import numpy as np
from tiny_models import VOCAB, tiny_model

import pyengine
from pyengine import Corpus

BAND = 1e-4  # of the largest: in a batch and alone the last bits differ, and layers amplify them


def units(n: int = 12, longest: int = 20) -> list[list[int]]:
    rng = np.random.default_rng(3)
    made: list[list[int]] = [
        rng.integers(1, VOCAB, rng.integers(1, longest)).tolist() for _ in range(n)
    ]
    return [*made, made[0]]


def search(family: str = "gpt2", k: int = 4, **more: Any) -> tuple[Any, pyengine.TriggerExamples]:
    model = pyengine.load((tiny_model(family), None))
    return model, pyengine.trigger_examples(model, Corpus.from_token_ids(units()), k=k, **more)

"""What the parts of the shortcut benchmark share: sizes, a model, sentences that were drawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

import pyengine
from benchmarks._values_common import Cost, cost
from benchmarks.triggers import random_model, sentences
from pyengine.batches import plan_blocks
from pyengine.forward import Forward
from pyengine.model_batches import model_batches
from pyengine.precision import precision
from pyengine.shortcuts.points import points_of
from pyengine.store import Report, TokenStore

BATCH_TOKENS, BLOCK_TOKENS = 4096, 131_072


@dataclass(frozen=True)
class Scale:
    """How much is measured; the defaults are the benchmark, GPT-2 small.

    Attributes:
        n_train, n_validation: sentences, one token of each.
        vocab: of the model.
        peer_pairs: how many pairs of layers LAPACK's solver is timed on.
        sub_train, sub_validation: sentences of the substitution modes.
        tiny: a model of two narrow layers, for the tests of this code.
    """

    n_train: int = 9_000
    n_validation: int = 3_000
    vocab: int = 50_257
    peer_pairs: int = 3
    sub_train: int = 1_500
    sub_validation: int = 200
    tiny: bool = False

    def model(self) -> pyengine.Model:
        """Build the model, of random weights."""
        return random_model("gpt2", self.vocab, tiny=self.tiny)

    def store(self, n_units: int) -> TokenStore:
        """Draw sentences: lengths and runs of tokens of the shipped excerpt, new ones each time."""
        real = sentences(2_000)
        generator = np.random.default_rng(0)
        lengths = generator.choice(real.lengths, n_units)
        begin = generator.integers(0, real.n_tokens - lengths.max(), n_units)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])
        tokens = np.asarray(real.tokens)[at] % self.vocab
        report = Report(units=n_units, tokens=len(tokens))
        return TokenStore.in_memory(tokens, offsets, report, real.adds_special)

    def drawn(self) -> dict[str, Any]:
        """Return the settings of a fit."""
        sizes = {"n_train": self.n_train, "n_validation": self.n_validation}
        return sizes | {"batch_tokens": BATCH_TOKENS, "block_tokens": BLOCK_TOKENS}


def headless(model: pyengine.Model, store: TokenStore) -> Cost:
    """Time one pass of the bare body over a store, in the batches of a fit."""
    forward = Forward(model)
    with torch.inference_mode(), precision(model.dtype):
        return cost(lambda: [forward.run(*pair) for pair in batches(model, store)])[0]


def batches(model: pyengine.Model, store: TokenStore) -> Iterator[Any]:
    """Yield the batches of a pass."""
    boundaries = plan_blocks(store.offsets, BLOCK_TOKENS).tolist()
    for first, last in pairwise(boundaries):
        yield from model_batches(model, store, (first, last), batch_tokens=BATCH_TOKENS)


def shape(model: pyengine.Model) -> tuple[int, int]:
    """Return L and d_model."""
    return points_of(model, "decoder").n_blocks, int(model.config.hidden_size)


def ratio(slow: Cost, fast: Cost) -> float:
    """Return how many times as long one takes; the worse of clock and CPU time."""
    return min(slow.wall_s / fast.wall_s, slow.cpu_s / fast.cpu_s)


def share(part: Cost, whole: Cost) -> float:
    """Return the part that one is of another; the worse of clock and CPU time."""
    return max(part.wall_s / whole.wall_s, part.cpu_s / whole.cpu_s)

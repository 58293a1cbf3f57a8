"""What the parts of the head benchmark share: sizes, a model, vectors that were drawn."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import pyengine
from benchmarks.triggers import random_model
from pyengine.heads.probe_settings import ProbeSettings


@dataclass(frozen=True)
class Scale:
    """How much is measured; the defaults are the benchmark, GPT-2 small.

    Attributes:
        n_train, n_dev, n_test: sentences of the probed task.
        heads, width, n_classes: of the probes.
        peer_heads: on how many heads SentEval's procedure is timed; the rest is extrapolated.
        sentences: whose vectors are extracted.
        vocab: of the model.
        tiny: a model of two narrow layers, for the tests of this code; of the trained ones one.
        data: the folder of SentEval's data; None: no part that needs it.
    """

    n_train: int = 10_000
    n_dev: int = 1_000
    n_test: int = 1_000
    heads: int = 144
    width: int = 64
    n_classes: int = 6
    peer_heads: int = 6
    sentences: int = 2_000
    vocab: int = 50_257
    tiny: bool = False
    data: str | None = None

    @property
    def settings(self) -> ProbeSettings:
        """transformer_anatomy's: RMSprop, four regularisers."""
        return ProbeSettings()

    def model(self) -> pyengine.Model:
        """Build the model, of random weights."""
        return random_model("gpt2", self.vocab, tiny=self.tiny)

    def drawn(self) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Draw vectors [n, heads, width] that tell classes more or less well, and their parts."""
        generator = np.random.default_rng(0)
        sizes = {"train": self.n_train, "dev": self.n_dev, "test": self.n_test}
        classes = generator.integers(0, self.n_classes, sum(sizes.values()))
        means = generator.standard_normal((self.n_classes, self.heads, self.width), np.float32)
        means *= np.linspace(0.05, 0.4, self.heads, dtype=np.float32)[:, None]
        x = generator.standard_normal((len(classes), self.heads, self.width), np.float32)
        for cls, mean in enumerate(means):
            x[classes == cls] += mean
        return x, dict(_parts(sizes, classes))


def _parts(
    sizes: dict[str, int], classes: np.ndarray
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    begin = 0
    for name, size in sizes.items():
        rows = np.arange(begin, begin + size)
        yield name, (rows[:, None], classes[rows])
        begin += size

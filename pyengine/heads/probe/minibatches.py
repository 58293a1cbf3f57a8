"""Which examples are read when: the permutations of one NumPy RandomState, as SentEval draws them.

They depend on the seed and the number of examples only, so that all probes of a task share them.
"""

import numpy as np

from pyengine.errors import PyengineError

HELD_OUT = 0.05  # of the examples, as dev where no other is given


class Minibatches:
    """The order in which a fit reads its examples.

    Attributes:
        train, dev: indices of examples, int64.
    """

    def __init__(self, train: np.ndarray, dev: np.ndarray | None, seed: int) -> None:
        """Begin the stream of permutations.

        Args:
            train: indices of examples.
            dev: those that decide when to stop; None: a random twentieth of `train`, drawn first.
            seed: of the RandomState.

        Raises:
            PyengineError: where `train` is too small to draw dev from.
        """
        self._random = np.random.RandomState(seed)
        if dev is None:
            n_dev = int(HELD_OUT * len(train))
            if n_dev == 0:
                raise PyengineError(
                    f"a twentieth of the training examples is held out: {len(train)} are too few, "
                    "20 are needed"
                )
            order = self._random.permutation(len(train))
            train, dev = train[order[n_dev:]], train[order[:n_dev]]
        self.train, self.dev = train, dev

    def epoch(self) -> np.ndarray:
        """Return the training examples in the order of one more epoch."""
        return self.train[self._random.permutation(len(self.train))]

"""Which rows a fit looks at: units drawn from a corpus by hash, and the tokens in each.

The draw depends on the seed and the corpus alone: not on shards, batches or the order of work.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyengine.batches import Batch
from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.positions import splitmix64
from pyengine.store import Report, TokenStore

TOKENS = ("one", "all")
TRAIN, VALIDATION = 0, 1

# Of a corpus of unknown use: what the original keeps, or a quarter of less.
MOST_VALIDATION = 3000
LEAST_UNITS = 4  # of which a quarter is one


@dataclass(frozen=True)
class Draw:
    """What to draw.

    Attributes:
        tokens: `one` random token of each unit, or `all`.
        seed: of units and tokens, 0 to 2**64 - 1.
        n_train, n_validation: units of each; None: a quarter, at most 3,000, for validation, the
            rest to train on.
        skip_first: so many tokens at the beginning of each unit, of those that could be taken,
            never are.
        special: whether an encoder's special tokens may be taken, too.
        preset: where the numbers of units are from; only told.
    """

    tokens: str = "one"
    seed: int = 0
    n_train: int | None = None
    n_validation: int | None = None
    skip_first: int = 0
    special: bool = True
    preset: str | None = None

    def __post_init__(self) -> None:
        check_choice("tokens", self.tokens, TOKENS)
        if not 0 <= self.seed < 1 << 64:
            raise PyengineError(f"seed must be from 0 to 2**64 - 1, got {self.seed}")
        for name in ("n_train", "n_validation"):
            if (n := getattr(self, name)) is not None and n < 1:
                raise PyengineError(f"{name} must be at least 1, got {n}")
        if self.skip_first < 0:
            raise PyengineError(f"skip_first must be at least 0, got {self.skip_first}")


@dataclass(frozen=True, eq=False)
class Sample:
    """The units that were drawn, in the order of the corpus, and which of their tokens are taken.

    Positions count a unit's content tokens from 0; a special token before them has -1, -2, …, one
    after them the unit's length.

    Attributes:
        store: the units that were drawn; under `one`, for a causal model, cut behind the token.
        units: int64 [n], which unit of the whole corpus each is.
        roles: int8 [n], `TRAIN` or `VALIDATION`.
        positions: of each stack, int64 [n], the token taken of each unit; empty under `all`.
        around: special tokens before and after the content that may be taken, by stack.
        draw: what was asked for.
    """

    store: TokenStore
    units: np.ndarray
    roles: np.ndarray
    positions: dict[str, np.ndarray]
    around: dict[str, tuple[int, int]]
    draw: Draw

    @classmethod
    def of(
        cls, store: TokenStore, draw: Draw, around: dict[str, tuple[int, int]], *, causal: bool
    ) -> "Sample":
        """Draw from a corpus.

        Args:
            store: the whole corpus, tokenised.
            draw: what to draw.
            around: of each stack that is read, how many special tokens come before and after the
                content and may be taken.
            causal: whether what follows a token changes nothing for it.

        Raises:
            PyengineError: if there are not enough units with a token that may be taken.
        """
        lengths = store.lengths
        inside = [_candidates(lengths, draw, *around[name])[1] > 0 for name in around]
        usable = np.flatnonzero(np.logical_and.reduce(inside))
        units, roles = _drawn(usable, draw)
        positions = {}
        if draw.tokens == "one":
            for number, name in enumerate(around):
                first, n = _candidates(lengths[units], draw, *around[name])
                # Another sequence for each stack, and none that the order of units came from.
                drawn = splitmix64(draw.seed ^ (number + 1), splitmix64(draw.seed, units))
                positions[name] = first + (drawn % n.astype(np.uint64)).astype(np.int64)
        ends = next(iter(positions.values())) + 1 if causal and positions else lengths[units]
        return cls(_cut(store, units, ends), units, roles, positions, around, draw)

    def rows(self, batch: Batch, stack: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and columns of a batch's tokens that are taken, int64 [n] each.

        Args:
            batch: of units of `store`, as the stack reads them.
            stack: its name.
        """
        if self.positions:
            columns = batch.first + self.positions[stack][batch.units]
            return np.arange(len(columns)), columns
        first, n = _candidates(batch.lengths.astype(np.int64), self.draw, *self.around[stack])
        rows = np.repeat(np.arange(len(n)), n)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(n) - n, n)
        return rows, batch.first + first + within

    def n_rows(self, stack: str, role: int) -> int:
        """Count the tokens that are taken in units of one role."""
        held = self.roles == role
        if self.positions:
            return int(held.sum())
        n = _candidates(self.store.lengths[held], self.draw, *self.around[stack])[1]
        return int(n.sum())


def _candidates(lengths: Any, draw: Draw, before: int, after: int) -> tuple[int, np.ndarray]:
    """Return the first position that may be taken, and of each unit how many there are."""
    if not draw.special:
        before = after = 0
    first = draw.skip_first - before
    return first, np.maximum(lengths + after - first, 0)


def _drawn(usable: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Draw units by the hash of their number; return them ascending, and their roles."""
    n_validation = draw.n_validation or min(MOST_VALIDATION, len(usable) // LEAST_UNITS)
    n_train = draw.n_train or len(usable) - n_validation
    if n_validation < 1 or n_train < 1 or n_train + n_validation > len(usable):
        raise PyengineError(_too_few(len(usable), n_train, n_validation, draw))
    order = usable[np.argsort(splitmix64(draw.seed, usable), kind="stable")]
    units = order[: n_train + n_validation]
    roles = np.where(np.arange(len(units)) < n_train, TRAIN, VALIDATION).astype(np.int8)
    ascending = np.argsort(units)
    return units[ascending], roles[ascending]


def _too_few(n: int, n_train: int, n_validation: int, draw: Draw) -> str:
    held = f"the corpus has {n} units with a token to take"
    if draw.n_train is None and draw.n_validation is None:
        return f"{held}; a fit needs {LEAST_UNITS} at least, a quarter of them for validation"
    train, validation = max(n_train, 1), max(n_validation, 1)
    of = f" (preset {draw.preset})" if draw.preset else ""
    return f"{held}, too few for {train} to train on and {validation} for validation{of}"


def _cut(store: TokenStore, units: np.ndarray, ends: np.ndarray) -> TokenStore:
    """Return a store of the first `ends` tokens of some units."""
    if len(units) == store.n_units and (ends == store.lengths).all():
        return store
    offsets = np.concatenate([[0], np.cumsum(ends)])
    at = np.repeat(np.asarray(store.offsets)[units] - offsets[:-1], ends)
    tokens = store.tokens[at + np.arange(offsets[-1])]
    report = Report(units=len(units), tokens=int(offsets[-1]))
    found = TokenStore.in_memory(tokens, offsets, report, store.adds_special)
    return replace(found, source=store.source)

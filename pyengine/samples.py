"""Samples of a corpus: parts from all over it, for which the same work can be done."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from pyengine.analyses.cached_activations import cache_activations
from pyengine.analyses.fact_prompts import FactPrompts
from pyengine.analyses.predictions import ffn_predictions
from pyengine.batch_bound import batch_shapes, n_special
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS
from pyengine.facts import Fact
from pyengine.memory_plan import arguments_of, cache_pass, prediction_settings
from pyengine.models import Model
from pyengine.scale.work import Work
from pyengine.store import TokenStore

# Pieces of a token store in a sample, of so many units at least.
PIECES, PIECE_UNITS = 8, 4


class Task(Protocol):
    """What can be run and timed: a `Work`, or what is proportional to the corpus of one."""

    def run(self, model: Model, out: Path, task: int, n_tasks: int) -> Any:
        """Carry out a task, in a run directory if it leaves anything."""


class Sample(NamedTuple):
    """A part of a corpus.

    Attributes:
        work: the same analysis of it.
        size: tokens or facts.
        cost: what its time is proportional to: computed tokens, or prompts.
    """

    work: Task
    size: int
    cost: int


class Parts(Protocol):
    """A corpus that samples are cut out of.

    Attributes:
        unit: what `size` counts: `tokens` or `facts`.
        size: content tokens, or facts that can be asked.
        n_units: units of the corpus; None for facts.
        cost: computed tokens, padding and special tokens included (T5: the encoder's); or prompts.
    """

    unit: str
    size: int
    n_units: int | None
    cost: int

    def sample(self, size: int) -> Sample:
        """Cut out about so many tokens or facts, from all over the corpus."""

    def notes(self) -> dict[str, str]:
        """Say what else is known before the pass, by its heading."""


class TokenParts:
    """A token store, and samples of its units."""

    unit = "tokens"
    n_units: int | None

    def __init__(self, work: Work, model: Model) -> None:
        assert isinstance(work.corpus, TokenStore)
        asked = arguments_of(work, model)
        self._work, self._store = work, work.corpus
        self._special = n_special(model, work.corpus, asked.get("bos", False))
        batch_tokens = asked.get("batch_tokens") or BATCH_TOKENS[model.device.type]
        self._sizes = {
            "batch_tokens": batch_tokens,
            "block_tokens": _block_tokens(work, model, asked),
        }
        self.size, self.n_units = work.corpus.n_tokens, work.corpus.n_units
        self.cost = self._computed(self._store)

    def sample(self, size: int) -> Sample:
        if size >= self._store.n_tokens:
            return Sample(self._work, self._store.n_tokens, self.cost)
        few, _ = spread_units(self._store, size)
        return Sample(replace(self._work, corpus=few), few.n_tokens, self._computed(few))

    def notes(self) -> dict[str, str]:
        return {}

    def _computed(self, store: TokenStore) -> int:
        return sum(
            rows * width for rows, width in batch_shapes(store, self._special, **self._sizes)
        )


class FactParts:
    """Facts that a model can be asked, and samples of them."""

    unit = "facts"
    n_units: int | None = None

    def __init__(self, work: Work, model: Model) -> None:
        asked = FactPrompts.of(model, cast("Sequence[Fact]", work.corpus))
        pairs = zip(asked.facts, asked.prompts, strict=True)
        self._work = work
        self._facts: Sequence[tuple[Fact, int]] = [(f, len(p)) for f, p in pairs if p]
        self.size = len(self._facts)
        self.cost = sum(n for _, n in self._facts)

    def sample(self, size: int) -> Sample:
        size = min(size, self.size)
        chosen = [self._facts[i * self.size // size] for i in range(size)]
        work = replace(self._work, corpus=[fact for fact, _ in chosen])
        return Sample(work, size, sum(n for _, n in chosen))

    def notes(self) -> dict[str, str]:
        return {}


def spread_units(store: TokenStore, size: int) -> tuple[TokenStore, np.ndarray]:
    """Take units of about so many tokens from all over a store, fewer than it has.

    Returns:
        A store of them, and their numbers, ascending.
    """
    n = min(PIECES, max(1, size * store.n_units // (store.n_tokens * PIECE_UNITS)))
    starts = np.arange(n) * store.n_tokens // n
    first = np.searchsorted(store.offsets, starts)
    last = np.maximum(np.searchsorted(store.offsets, starts + size // n), first + 1)
    units = np.unique(np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)]))
    units = units[units < store.n_units]
    tokens = np.concatenate([store.unit_tokens(unit) for unit in units])
    offsets = np.concatenate([[0], np.cumsum(store.lengths[units])]).astype(np.int64)
    few = TokenStore.in_memory(tokens, offsets, store.report, store.adds_special)
    return few, units


def _block_tokens(work: Work, model: Model, asked: dict[str, Any]) -> int:
    if work.function is ffn_predictions:
        return int(prediction_settings(model, asked).block_tokens or 0)
    if work.function is cache_activations:
        return cache_pass(model, asked).block_tokens
    return int(asked.get("block_tokens") or BLOCK_TOKENS[model.device.type])

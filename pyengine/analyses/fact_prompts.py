"""Which facts, in which prompts, a model can be asked; and each fact's unrelated one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pyengine.cloze import clozes, ends_in_mask
from pyengine.errors import PyengineError
from pyengine.facts import Fact, by_relation, check_facts
from pyengine.models import Model
from pyengine.positions import splitmix64

NO_PROMPT = "no prompt ends in the object"


@dataclass(frozen=True, eq=False)
class FactPrompts:
    """Facts side by side by relation, as a model can be asked them.

    Attributes:
        facts: all of them; a fact's number in a run is its place here.
        prompts: of each those that the model takes; none where the fact is skipped.
        reasons: why a fact is skipped, else None.
    """

    facts: tuple[Fact, ...]
    prompts: tuple[tuple[str, ...], ...]
    reasons: tuple[str | None, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        facts: Sequence[Fact],
        on_checked: Callable[[int, int], None] | None = None,
    ) -> "FactPrompts":
        """Check every prompt with the model's tokenizer.

        A causal model takes the prompts that end in the object. A fact without one is skipped, and
        so is one that the model cannot be asked (its object is not in the vocabulary, ...).

        `on_checked` is called with (facts checked, in all).

        Raises:
            PyengineError: if facts do not fit together (see `check_facts`), or none can be asked.
        """
        check_facts(facts)
        ordered = by_relation(facts)
        found = []
        for fact in ordered:
            found.append(_askable(model, fact))
            if on_checked is not None:
                on_checked(len(found), len(ordered))
        prompts, reasons = zip(*found, strict=True)
        if not any(prompts):
            raise PyengineError(
                f"{model.name} can be asked none of the {len(facts)} facts: "
                f"{ordered[0].uid!r}: {reasons[0]}"
            )
        return cls(tuple(ordered), prompts, reasons)

    def blocks(self, block_facts: int | None) -> np.ndarray:
        """Cut the facts into blocks of so many; None: a block per relation.

        Returns:
            int64 [n_blocks + 1]: block b holds the facts boundaries[b] to boundaries[b + 1] - 1.
        """
        n_facts = len(self.facts)
        if block_facts is None:
            names = [fact.relation for fact in self.facts]
            cuts = [i for i in range(1, n_facts) if names[i] != names[i - 1]]
        else:
            cuts = [*range(block_facts, n_facts, block_facts)]
        return np.array([0, *cuts, n_facts], np.int64)

    def unrelated(self, seed: int) -> np.ndarray:
        """Draw a fact of another relation for each: its own number of the SplitMix64 sequence.

        Only facts that can be asked are drawn, every one as likely as the others.

        Returns:
            int64 [n_facts]; -1 for a skipped fact, and where there is no other relation.
        """
        asked = np.flatnonzero([len(prompts) > 0 for prompts in self.prompts])
        names: dict[str, int] = {}
        code = [names.setdefault(self.facts[i].relation, len(names)) for i in asked]
        # Relations lie side by side: those of one are a range, which the draw leaps over.
        first, last = np.searchsorted(code, code), np.searchsorted(code, code, side="right")
        n_others = len(asked) - (last - first)
        drawn = splitmix64(seed, asked) % np.maximum(n_others, 1).astype(np.uint64)
        chosen = drawn.astype(np.int64)
        chosen += np.where(chosen >= first, last - first, 0)
        found = np.full(len(self.facts), -1, np.int64)
        found[asked[n_others > 0]] = asked[chosen[n_others > 0]]
        return found


def _askable(model: Model, fact: Fact) -> tuple[tuple[str, ...], str | None]:
    """Return the prompts that a model takes, or none and the reason."""
    prompts = fact.prompts
    if model.family.causal:
        prompts = tuple(filter(ends_in_mask, prompts))
        if not prompts:
            return (), NO_PROMPT
    try:
        for prompt in prompts:
            clozes(model, prompt, fact.object)
    except PyengineError as error:
        return (), str(error)
    return prompts, None

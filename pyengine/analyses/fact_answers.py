"""What a model answers to many prompts, each of one or several tokens, in batches."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pyengine.answers import Answers
from pyengine.cloze import Cloze

# Answers clozes as one batch; given with them: the number of the prompt that each belongs to.
Ask = Callable[[list[Cloze], list[int]], Answers]


class Replies(NamedTuple):
    """Answers to n prompts.

    Attributes:
        probability: float64 [n], of the whole target: the product over its tokens.
        rank: int32 [n], the worst of its tokens'; 0: the model gives the target itself.
        completion: per prompt, the model's own best tokens, each given the target's earlier ones.
    """

    probability: np.ndarray
    rank: np.ndarray
    completion: list[list[int]]

    def rows(self, rows: Sequence[int]) -> "Replies":
        """Return some of them, in the order asked for."""
        at = np.asarray(rows, np.int64)
        return Replies(self.probability[at], self.rank[at], [self.completion[i] for i in rows])

    def replaced(self, rows: Sequence[int], new: "Replies") -> "Replies":
        """Return them with others in some rows."""
        at = np.asarray(rows, np.int64)
        probability, rank = self.probability.copy(), self.rank.copy()
        probability[at], rank[at] = new.probability, new.rank
        others = dict(zip(rows, new.completion, strict=True))
        completion = [others.get(row, own) for row, own in enumerate(self.completion)]
        return Replies(probability, rank, completion)


def replies(prompts: Sequence[Sequence[Cloze]], ask: Ask, batch_clozes: int) -> Replies:
    """Answer prompts; the batches depend on the prompts only.

    Args:
        prompts: of each its clozes, one per token of the target.
        ask: answers a batch.
        batch_clozes: clozes per batch; those of similar length go together.
    """
    flat = [cloze for prompt in prompts for cloze in prompt]
    sizes = np.array([len(prompt) for prompt in prompts], np.int64)
    owners = np.repeat(np.arange(len(prompts)), sizes)
    probability = np.empty(len(flat))
    rank, top = np.empty(len(flat), np.int32), np.empty(len(flat), np.int64)
    order = np.argsort([len(cloze.input_ids) for cloze in flat], kind="stable")
    for at in range(0, len(flat), batch_clozes):
        rows = order[at : at + batch_clozes]
        found = ask([flat[row] for row in rows], owners[rows].tolist())
        probability[rows] = found.probability.double().numpy()
        rank[rows] = found.rank.numpy()
        top[rows] = found.top_token.numpy()
    if not flat:
        return Replies(probability, rank, [])
    starts = np.cumsum(sizes) - sizes
    return Replies(
        np.multiply.reduceat(probability, starts),
        np.maximum.reduceat(rank, starts),
        [tokens.tolist() for tokens in np.split(top, starts[1:])],
    )

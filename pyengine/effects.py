"""What a model answers before and after something is done to it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch

from pyengine.answer_tokens import Target
from pyengine.answers import Answers
from pyengine.cloze import Cloze, Prompt, clozes
from pyengine.errors import PyengineError
from pyengine.models import Model

MAX_ROWS = 64  # clozes per forward pass

# How a model, as it is or with something done to it, answers clozes of one shape.
Ask = Callable[[Sequence[Cloze]], Answers]


@dataclass(frozen=True)
class Answer:
    """What a model says to one prompt.

    Attributes:
        probability: of the target; of several tokens the product, each given those before it.
        rank: of the target, 0 is the best; of several tokens the worst of their ranks.
        completion: the model's own best tokens, as text: one in the place of each of the target's,
            given the target's tokens before it.
        completion_probability: the product of theirs.
    """

    probability: float
    rank: int
    completion: str
    completion_probability: float


@dataclass(frozen=True)
class Effect:
    """One prompt's answers without and with an intervention."""

    before: Answer
    after: Answer


def effects(
    model: Model, prompts: Sequence[Prompt], targets: Sequence[Target], before: Ask, after: Ask
) -> list[Effect]:
    """Compare two ways to ask, one effect per prompt; prompts are batched.

    Raises:
        PyengineError: for a prompt or target that `pyengine.cloze.clozes` refuses, or a model
            without tokenizer (completions are text).
    """
    if model.tokenizer is None:
        raise PyengineError(f"{model.name} has no tokenizer to spell its answers with")
    asked = [clozes(model, *pair) for pair in zip(prompts, targets, strict=True)]
    pairs = zip(_answered(model, asked, before), _answered(model, asked, after), strict=True)
    return [Effect(*pair) for pair in pairs]


def paired_targets(prompts: Sequence[Prompt], targets: Target | Sequence[Target]) -> list[Target]:
    """Return one target per prompt.

    Args:
        prompts: the prompts.
        targets: one for each, or a text or token id for all of them.

    Raises:
        PyengineError: if there are no prompts, or more or fewer targets.
    """
    if not prompts:
        raise PyengineError("no prompts were given")
    if isinstance(targets, (str, int)):
        return [targets] * len(prompts)
    if len(targets) != len(prompts):
        raise PyengineError(f"there are {len(prompts)} prompts, but {len(targets)} targets")
    return [*targets]


def ask_all(ask: Ask, items: Sequence[Cloze]) -> Answers:
    """Ask any number of clozes, in batches without padding; the answers are in their order.

    Hooks that find the answer's place by themselves cannot see padding.
    """
    order = sorted(range(len(items)), key=lambda i: _shape(items[i]))
    parts = []
    for _, group in groupby(order, key=lambda i: _shape(items[i])):
        same = [*group]
        for start in range(0, len(same), MAX_ROWS):
            parts.append(ask([items[i] for i in same[start : start + MAX_ROWS]]))
    back = torch.tensor(order).argsort()
    return Answers(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))


def _shape(cloze: Cloze) -> tuple[int, int]:
    return len(cloze.input_ids), len(cloze.decoder_ids)


def _answered(model: Model, asked: Sequence[Sequence[Cloze]], ask: Ask) -> list[Answer]:
    found = ask_all(ask, [cloze for items in asked for cloze in items])
    columns = [column.split([len(items) for items in asked]) for column in found]
    return [_joined(model, Answers(*tokens)) for tokens in zip(*columns, strict=True)]


def _joined(model: Model, tokens: Answers) -> Answer:
    """Join the answers of one target's tokens."""
    assert model.tokenizer is not None
    return Answer(
        probability=math.prod(tokens.probability.tolist()),
        rank=int(tokens.rank.max()),
        completion=cast(str, model.tokenizer.decode(tokens.top_token.tolist())),
        completion_probability=math.prod(tokens.top_probability.tolist()),
    )

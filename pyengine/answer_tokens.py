"""The tokens of an answer, and what to do about one that the vocabulary lacks."""

import operator
import warnings
from collections.abc import Sequence
from typing import Any

from pyengine.errors import PyengineError
from pyengine.models import Model

Target = str | int | Sequence[int]


def target_ids(model: Model, target: Target) -> tuple[int, ...]:
    """Return the token ids of an answer.

    Raises:
        PyengineError: if it is empty, or has a token that the vocabulary lacks.
    """
    if isinstance(target, str):
        return _answer_ids(model, target)
    try:
        ids = tuple(map(operator.index, (target,) if isinstance(target, int) else target))
    except TypeError as error:
        raise PyengineError(f"a target is a text or token ids, not {target!r}") from error
    if not ids:
        raise PyengineError("the target is empty")
    if wrong := [token for token in ids if not 0 <= token < model.vocab_size]:
        raise PyengineError(
            f"target id {wrong[0]} is out of range; the vocabulary has {model.vocab_size} tokens"
        )
    return ids


def warn_of_space(model: Model, target: str, answer: tuple[int, ...]) -> None:
    """Tell of an answer that falls to pieces for want of the space before it."""
    if len(answer) == 1 or target.startswith(" "):
        return
    ids = tokenizer_of(model)(f" {target}", add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        tokens = tokenizer_of(model).convert_ids_to_tokens(answer)
        warnings.warn(
            f"the target {target!r} has {len(answer)} tokens, {tokens}; with a leading space, "
            f"{' ' + target!r}, it is one",
            stacklevel=4,
        )


def tokenizer_of(model: Model) -> Any:
    """Return the tokenizer of a model.

    Raises:
        PyengineError: if it has none.
    """
    if model.tokenizer is None:
        raise PyengineError(f"{model.name} has no tokenizer; prompts and targets need one")
    return model.tokenizer


def _answer_ids(model: Model, target: str) -> tuple[int, ...]:
    tokenizer = tokenizer_of(model)
    ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    if not ids:
        raise PyengineError(f"the target {target!r} has no tokens")
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids and target.strip() != tokenizer.unk_token:
        tokens = tokenizer.convert_ids_to_tokens(ids)
        raise PyengineError(
            f"the target {target!r} is not in the vocabulary of {model.name}: its tokens are "
            f"{tokens}{_likely_fix(tokenizer, target, unknown)}"
        )
    return tuple(ids)


def _likely_fix(tokenizer: Any, target: str, unknown: int) -> str:
    """Name a spelling of the answer that the vocabulary has."""
    for spelling in (f" {target}", target.strip(), target.lower(), target.capitalize()):
        ids = tokenizer(spelling, add_special_tokens=False)["input_ids"]
        if ids and unknown not in ids:
            return f"; did you mean {spelling!r}?"
    return ""

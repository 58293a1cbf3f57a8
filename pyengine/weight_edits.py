"""Interventions that change the value vectors of neurons: erase them, or write other tokens in.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers", §5.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyengine.answer_tokens import Target, target_ids
from pyengine.answers import answers
from pyengine.checks import check_choice
from pyengine.cloze import Prompt, clozes
from pyengine.effects import Ask, ask_all
from pyengine.errors import PyengineError
from pyengine.forward import Forward
from pyengine.intervention_base import Intervention
from pyengine.models import Model
from pyengine.value_rows import Change, begin_change, change_copy, distinct_rows, end_change

ERASE_VALUES = ("zero", "unk")


class _Rule(NamedTuple):
    """How an edit writes embeddings into a value vector.

    Attributes:
        strengths: of the old token, taken away, and of the new one, added.
        relative: whether an embedding is first brought to the norm of the value vector.
    """

    strengths: tuple[float, float]
    relative: bool


RULES = {
    "package": _Rule((2.0, 2.0), relative=False),
    "dai": _Rule((1.0, 8.0), relative=True),
}


def erase(
    model: Model, neurons: Iterable[Sequence[int]], erase_value: str = "zero"
) -> Intervention:
    """Replace the value vectors of some neurons, at all positions of all inputs.

    Args:
        model: the model; while the intervention is entered, its own weights are changed, and
            afterwards they have their bits back.
        neurons: (layer, dim) pairs; one that is named twice counts once.
        erase_value: `zero`, or `unk`: the embedding of the unknown token.

    Raises:
        PyengineError: for a neuron that the model does not have, an unknown value, or `unk` where
            the tokenizer has no unknown token (GPT-2's only name for one is its end of text).
    """
    check_choice("erase_value", erase_value, ERASE_VALUES)
    if erase_value == "zero":
        return _WeightEdit(model, neurons, lambda row: torch.zeros_like(row))
    unknown = _embedding(model, [_unk_id(model)])
    return _WeightEdit(model, neurons, lambda row: unknown.to(row))


def edit(
    model: Model,
    neurons: Iterable[Sequence[int]],
    *,
    new: Target,
    old: Target | None = None,
    prompt: Prompt | None = None,
    rule: str = "package",
    strengths: tuple[float, float] | None = None,
) -> Intervention:
    """Take the old answer out of the value vectors of some neurons, and write the new one in.

    With v the vector as the edit finds it, E the token embedding (the input's) and strengths a, b:

    - `package`: v - a·E[old] + b·E[new], (2, 2): the knowledge-neurons package.
    - `dai`: v - a·|v|/|E[old]|·E[old] + b·|v|/|E[new]|·E[new], (1, 8): Dai et al.'s code.

    The E of several tokens is the sum of their embeddings, brought to their mean norm.

    Args:
        model: as in `erase`.
        neurons: as in `erase`.
        new: text or token ids. With a prompt, a causal model's text is what follows it, with the
            space that belongs to it (see `pyengine.cloze.clozes`).
        old: likewise; None: what the model answers to the prompt now, one token in the place of
            each of `new`.
        prompt: needed where `old` is None.
        rule: `package` or `dai`.
        strengths: (a, b); None: the rule's own.

    Raises:
        PyengineError: for a neuron that the model does not have, a bad prompt or answer, neither
            old answer nor prompt, an unknown rule, strengths that are not two numbers, or an
            embedding of norm zero where it is divided by.
    """
    check_choice("rule", rule, tuple(RULES))
    usual, relative = RULES[rule]
    less, more = _check_strengths(usual if strengths is None else strengths)
    new_ids = _ids(model, new, prompt)
    old_ids = _said(model, prompt, new_ids) if old is None else _ids(model, old, prompt)
    terms = ((-less, _embedding(model, old_ids)), (more, _embedding(model, new_ids)))
    if relative and not all(bool(embedding.any()) for _, embedding in terms):
        raise PyengineError(f"rule={rule!r} divides by the norm of an embedding that is zero")
    return _WeightEdit(model, neurons, partial(_edited, terms, relative))


class _WeightEdit(Intervention):
    """Changes value vectors in place."""

    def __init__(self, model: Model, neurons: Iterable[Sequence[int]], change: Change) -> None:
        super().__init__(model, neurons)
        self._change = change

    def _enter(self, undo: ExitStack) -> None:
        undo.callback(_forget_fingerprint, self.model)
        for place in distinct_rows(self.model, self.neurons):
            # Said before it is done: what an interruption leaves half done is undone, too.
            undo.callback(end_change, self.model, place, self._change)
            begin_change(self.model, place, self._change)
        _forget_fingerprint(self.model)

    def _ask(self) -> Ask:
        forward = Forward(self.model)
        change_copy(self.model, forward.body, distinct_rows(self.model, self.neurons), self._change)
        return lambda items: answers(self.model, items, forward)


def _forget_fingerprint(model: Model) -> None:
    """Drop the cached hash of the weights, which are no longer those."""
    vars(model).pop("fingerprint", None)


def _edited(terms: tuple[tuple[float, Tensor], ...], relative: bool, row: Tensor) -> Tensor:
    """Add embeddings to a value vector, each (strength, embedding)."""
    wide = row.to(torch.promote_types(row.dtype, torch.float32))
    changed = wide
    for strength, embedding in terms:
        size = wide.norm() / embedding.norm() if relative else 1.0
        changed = changed + strength * size * embedding.to(wide)
    return changed


def _embedding(model: Model, ids: Sequence[int]) -> Tensor:
    """Return what stands for an answer, [d_model], at least float32.

    One token: its embedding. Several: the sum of theirs, brought to the mean of their norms.
    """
    table: Any = model.body.get_submodule(model.family.embedding)
    if table.weight.shape[1] != model.values(0).shape[1]:
        raise PyengineError(
            f"the embeddings of {model.name} are narrower than its values: none can be written in"
        )
    rows = table.weight.detach()[list(ids)]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if len(rows) == 1:
        return rows[0]
    total = rows.sum(0)
    if not bool(total.any()):
        raise PyengineError(f"the embeddings of the tokens {list(ids)} cancel out")
    return total * (rows.norm(dim=1).mean() / total.norm())


def _ids(model: Model, answer: Target, prompt: Prompt | None) -> Sequence[int]:
    if prompt is None:
        return target_ids(model, answer)
    return [cloze.target for cloze in clozes(model, prompt, answer)]


def _said(model: Model, prompt: Prompt | None, new: Sequence[int]) -> list[int]:
    """Return what the model says now in the place of the new answer's tokens."""
    if prompt is None:
        raise PyengineError("edit needs old=..., or prompt=... to see what the model answers now")
    forward = Forward(model)
    found = ask_all(lambda items: answers(model, items, forward), clozes(model, prompt, new))
    return found.top_token.tolist()


def _unk_id(model: Model) -> int:
    tokenizer = model.tokenizer
    unk = None if tokenizer is None else tokenizer.unk_token_id
    if tokenizer is None or unk is None or unk in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        raise PyengineError(f"{model.name} has no unknown token of its own; use erase_value='zero'")
    return int(unk)


def _check_strengths(strengths: Sequence[float]) -> tuple[float, float]:
    if len(strengths) != 2 or not all(map(math.isfinite, strengths)):
        raise PyengineError(f"strengths must be two finite numbers, not {strengths!r}")
    less, more = strengths
    return less, more

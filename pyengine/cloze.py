"""Prompts and answers as token ids: one token to be predicted, at one place of one input.

A family-neutral `[MASK]` stands in a prompt where the answer goes; a plain prompt of a causal model
is the text before the answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyengine.answer_tokens import Target, target_ids, tokenizer_of, warn_of_space
from pyengine.batches import Batch
from pyengine.errors import PyengineError
from pyengine.models import Model

MASK = "[MASK]"
SENTINEL = "<extra_id_0>"  # T5's name for the first thing that is left out

Prompt = str | Sequence[int]

# What may follow the answer of a causal model's prompt; the model never reads it.
_AFTER_ANSWER = re.compile(r"[\s.!?]*")


@dataclass(frozen=True)
class Cloze:
    """One token to be predicted.

    Attributes:
        input_ids: as the model's first stack reads them, special tokens included.
        position: where in them the answer is read: BERT's mask, T5's sentinel, a causal model's
            last token.
        target: the answer's id.
        decoder_ids: what T5's decoder reads: start, sentinel, the answer's earlier tokens; the
            answer is read at the last. Empty for models of one stack.
    """

    input_ids: tuple[int, ...]
    position: int
    target: int
    decoder_ids: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ClozeBatch:
    """Clozes padded on the right.

    Attributes:
        batch: what the first stack reads.
        decoder: what T5's decoder reads, else None.
        positions: by stack name, int64 [B]: where the answer is read.
        targets: int64 [B].
    """

    batch: Batch
    decoder: Batch | None
    positions: dict[str, np.ndarray]
    targets: np.ndarray


def clozes(model: Model, prompt: Prompt, target: Target) -> list[Cloze]:
    """Return what has to be predicted, one cloze per token of the answer.

    Token i is read given the answer's tokens before it (teacher forcing): appended to the prompt of
    a causal model or to T5's decoder input; in BERT they fill the earlier masks, and the later
    ones stay masked.

    Args:
        model: whose tokenizer is used for texts.
        prompt: text with one `[MASK]` (BERT: or as many as the answer has tokens; T5: or
            `<extra_id_0>`); a causal model takes the text before the answer, or one that ends in
            `[MASK]`, after which punctuation may follow: the space before it then belongs to the
            answer. Or token ids, as the model reads them.
        target: text, or token ids.

    Raises:
        PyengineError: for an empty prompt, a prompt without its one place for the answer, an answer
            that is not in the vocabulary, or more tokens than the model reads.
    """
    if model.family.encoder_decoder:
        found = _denoising(model, prompt, target)
    elif model.family.causal:
        found = _continuation(model, prompt, target)
    else:
        found = _masked(model, prompt, target)
    longest = max(len(cloze.input_ids) for cloze in found)
    if longest > model.max_positions:
        raise PyengineError(
            f"the prompt has {longest} tokens; {model.name} reads at most {model.max_positions}"
        )
    return found


def ends_in_mask(prompt: str) -> bool:
    """Say whether nothing but `.`, `!`, `?` follows the `[MASK]`: a causal model can be asked."""
    _, mask, after = prompt.partition(MASK)
    return bool(mask) and _AFTER_ANSWER.fullmatch(after) is not None


def batch_clozes(model: Model, items: Sequence[Cloze]) -> ClozeBatch:
    """Pad clozes to the longest of them."""
    inputs = _padded([cloze.input_ids for cloze in items], model.pad_id)
    first, *rest = model.family.stacks
    positions = {first.name: np.array([cloze.position for cloze in items], np.int64)}
    decoder = None
    if rest:
        read = [cloze.decoder_ids for cloze in items]
        decoder = _padded(read, model.pad_id)
        positions[rest[0].name] = np.array([len(ids) - 1 for ids in read], np.int64)
    targets = np.array([cloze.target for cloze in items], np.int64)
    return ClozeBatch(inputs, decoder, positions, targets)


def _masked(model: Model, prompt: Prompt, target: Target) -> list[Cloze]:
    """BERT: the answer's tokens stand where the masks are."""
    mask = tokenizer_of(model).mask_token_id
    if mask is None:
        raise PyengineError(f"the tokenizer of {model.name} has no mask token")
    answer = target_ids(model, target)
    if isinstance(prompt, str):
        text = prompt.replace(MASK, str(tokenizer_of(model).mask_token))
        ids = [*tokenizer_of(model)(text)["input_ids"]]
    else:
        ids = [*prompt]
    n_masks = ids.count(mask)
    if n_masks == 1:
        at = ids.index(mask)
        ids[at : at + 1] = [mask] * len(answer)
    elif n_masks != len(answer):
        raise PyengineError(
            f"the prompt {_shown(prompt)} has {n_masks} masks; it needs one {MASK}"
            + (f", or one for each of the target's {len(answer)} tokens" if n_masks else "")
        )
    places = [i for i, token in enumerate(ids) if token == mask]
    found = []
    for place, token in zip(places, answer, strict=True):
        found.append(Cloze(tuple(ids), place, token))
        ids[place] = token
    return found


def _continuation(model: Model, prompt: Prompt, target: Target) -> list[Cloze]:
    """GPT: the answer follows the prompt."""
    if isinstance(prompt, str) and MASK in prompt:
        prompt, target = _before_mask(prompt, target)
    answer = target_ids(model, target)
    if isinstance(target, str):
        warn_of_space(model, target, answer)
    if isinstance(prompt, str):
        ids: tuple[int, ...] = tuple(
            tokenizer_of(model)(prompt, add_special_tokens=False).input_ids
        )
    else:
        ids = tuple(prompt)
    if not ids:
        raise PyengineError("the prompt is empty; a causal model needs at least one token")
    found = []
    for token in answer:
        found.append(Cloze(ids, len(ids) - 1, token))
        ids = (*ids, token)
    return found


def _denoising(model: Model, prompt: Prompt, target: Target) -> list[Cloze]:
    """T5: the decoder says what the sentinel in the encoder's input stands for."""
    tokenizer = tokenizer_of(model)
    sentinel = tokenizer.convert_tokens_to_ids(SENTINEL)
    if sentinel is None or sentinel == tokenizer.unk_token_id:
        raise PyengineError(f"the tokenizer of {model.name} has no {SENTINEL}")
    answer = target_ids(model, target)
    if isinstance(prompt, str):
        ids = tuple(tokenizer(prompt.replace(MASK, SENTINEL))["input_ids"])
    else:
        ids = tuple(prompt)
    if ids.count(sentinel) != 1:
        raise PyengineError(
            f"the prompt {_shown(prompt)} has {ids.count(sentinel)} places for the answer; it "
            f"needs one {MASK} (or {SENTINEL})"
        )
    read = (model.decoder_start_id, sentinel)
    return [
        Cloze(ids, ids.index(sentinel), token, (*read, *answer[:i]))
        for i, token in enumerate(answer)
    ]


def _before_mask(prompt: str, target: Target) -> tuple[str, Target]:
    """Cut a causal model's prompt at its mask; the space before it goes to the answer."""
    before = prompt.partition(MASK)[0]
    if not ends_in_mask(prompt):
        raise PyengineError(
            f"the prompt {_shown(prompt)} goes on after {MASK}; a causal model reads only what is "
            "before the answer"
        )
    if isinstance(target, str) and before != before.rstrip():
        target = f" {target.lstrip()}"
    return before.rstrip(), target


def _shown(prompt: Prompt) -> str:
    text = repr(prompt if isinstance(prompt, str) else list(prompt))
    return text if len(text) <= 80 else f"{text[:60]}…{text[-19:]}"


def _padded(rows: Sequence[tuple[int, ...]], pad_id: int) -> Batch:
    lengths = np.array([len(row) for row in rows], np.int32)
    shape = (len(rows), int(lengths.max()))
    inside = np.arange(shape[1]) < lengths[:, None]
    input_ids = np.full(shape, pad_id, np.int64)
    input_ids[inside] = [token for row in rows for token in row]
    return Batch(
        input_ids=input_ids,
        attention_mask=inside.astype(np.int64),
        ids=np.where(inside, 0, -1),
        units=np.arange(len(rows), dtype=np.int64),
        lengths=lengths,
        first=0,
        pad_id=pad_id,
    )

"""Token ids in any of the forms that callers have, as rows: one 1-D tensor per input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pyengine.errors import PyengineError
from pyengine.models import Model, SpecialTokens

Rows = list[Tensor]

IGNORED = -100  # a label that Hugging Face's losses leave out


def rows_of(value: Any, name: str) -> Rows:
    """Read a tensor or array [T] or [B, T], or a list of numbers or of such lists.

    Args:
        value: what the caller gave.
        name: what it is, for errors.

    Raises:
        PyengineError: if it is anything else, or a row is empty.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        whole = _tensor(value, name)
        if whole.dim() not in (1, 2):
            raise PyengineError(
                f"{name} has shape {tuple(whole.shape)}; expected [T] or [B, T]" + _why_flat(name)
            )
        rows = list(torch.atleast_2d(whole))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        rows = [_tensor(part, name) for part in (value if _nested(value) else [value])]
    else:
        raise PyengineError(
            f"{name} must be a tensor, an array or a list of token ids, not {_short(value)}"
        )
    if not rows:
        raise PyengineError(f"{name} is empty: it has no rows")
    for index, row in enumerate(rows):
        if row.dim() != 1:
            raise PyengineError(
                f"row {index} of {name} has shape {tuple(row.shape)}; expected [T]"
                + _why_flat(name)
            )
        if not len(row):
            raise PyengineError(f"row {index} of {name} is empty")
    return rows


def whole_numbers(rows: Rows, name: str, limit: int, what: str, *, also: int | None = None) -> Rows:
    """Return int64 rows.

    Args:
        rows: of any dtype.
        name: what they are, for errors.
        limit: values go from 0 to below this.
        what: what has so many, for errors.
        also: one more value that is allowed.

    Raises:
        PyengineError: for numbers that are not whole, or that are out of range.
    """
    for row in rows:
        if row.dtype == torch.bool or row.is_floating_point() or row.is_complex():
            dtype = str(row.dtype).removeprefix("torch.")
            raise PyengineError(f"{name} must hold whole numbers (int64), not {dtype}")
    rows = [row.long() for row in rows]
    flat = torch.cat(rows)
    wrong = (flat < 0) | (flat >= limit)
    if also is not None:
        wrong &= flat != also
    if bool(wrong.any()):
        at = int(wrong.int().argmax())  # the first
        index, position = _place(rows, at)
        raise PyengineError(
            f"{name} holds {int(flat[at])} in row {index} at position {position}; "
            f"{what}: 0 to {limit - 1}" + ("" if also is None else f", or {also}")
        )
    return rows


def token_ids(model: Model, value: Any, name: str, *, also: int | None = None) -> Rows:
    """Read ids of the model's vocabulary, int64; `also` is one more value that is allowed.

    Raises:
        PyengineError: if they are not such.
    """
    n = model.vocab_size
    what = f"the vocabulary of {model.name} has {n} tokens"
    return whole_numbers(rows_of(value, name), name, n, what, also=also)


def content_ids(model: Model, texts: Sequence[str], name: str) -> Rows:
    """Tokenise texts, without special tokens.

    Raises:
        PyengineError: for a text without tokens, or a model without a tokenizer.
    """
    if model.tokenizer is None:
        raise PyengineError(f"{model.name} has no tokenizer to read texts; give token ids")
    # Not verbose: what is too long is told, or cut, by us.
    found: Any = model.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    for index, (text, ids) in enumerate(zip(texts, found, strict=True)):
        if not ids:
            raise PyengineError(f"{name}: text {index}, {text!r}, has no tokens")
    return token_ids(model, found, name)


def surrounded(row: Tensor, special: SpecialTokens) -> Tensor:
    """Put special tokens around a row."""
    return torch.cat([row.new_tensor(special.prefix), row, row.new_tensor(special.suffix)])


def as_texts(value: Any) -> list[str] | None:
    """Return a text or a list of texts as a list; None for anything else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Sequence) and value and all(isinstance(text, str) for text in value):
        return list(value)
    return None


def mask_rows(value: Any, name: str) -> Rows:
    """Read a mask of 0 (hidden) and 1, or of truth values, as int64 rows.

    Raises:
        PyengineError: for other shapes and values, or a row without a 1.
    """
    rows = rows_of(value, name)
    for index, row in enumerate(rows):
        if wrong := row[(row != 0) & (row != 1)].tolist():
            raise PyengineError(
                f"{name} holds {wrong[0]} in row {index}; it must be 1 at tokens, 0 at padding"
            )
        if not bool(row.any()):
            raise PyengineError(f"{name} hides all tokens of row {index}")
    return [row.long() for row in rows]


def check_shape(name: str, rows: Rows, like: str, others: Rows) -> None:
    """Refuse rows that are not as many and as long as `others`, whose name is `like`.

    Raises:
        PyengineError: with the first difference.
    """
    if len(rows) != len(others):
        raise PyengineError(f"{name} has {len(rows)} rows, {like} {len(others)}; give as many")
    for index, (row, other) in enumerate(zip(rows, others, strict=True)):
        if len(row) != len(other):
            raise PyengineError(
                f"row {index} of {name} has {len(row)} entries, of {like} {len(other)}; "
                "their shapes must be the same"
            )


def pad(rows: Rows, fill: int, side: str, device: torch.device) -> Tensor:
    """Return int64 [B, T] on a device, filled up on one side to the longest row."""
    padded: Tensor = pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side)
    return padded.to(device)


def pad_tokens(
    model: Model, rows: Rows, mask: Rows | None, side: str
) -> tuple[Tensor, Tensor | None]:
    """Return ids and mask, int64 [B, T]; the mask is None where none was given and none needed."""
    if mask is None and len({len(row) for row in rows}) > 1:
        mask = [torch.ones_like(row) for row in rows]
    ids = pad(rows, model.pad_id, side, model.device)
    return ids, None if mask is None else pad(mask, 0, side, model.device)


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(np.array(value))  # a copy: torch warns of what is read-only
    except (TypeError, ValueError, RuntimeError) as error:
        raise PyengineError(f"{name} must hold numbers, not {_short(value)}") from error


def _nested(value: Sequence[Any]) -> bool:
    return any(isinstance(part, (Sequence, np.ndarray, Tensor)) for part in value)


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _why_flat(name: str) -> str:
    """Say why a mask of four dimensions is not passed on."""
    if not name.endswith("mask"):
        return ""
    return " (eager attention adds a mask of more dimensions to its scores, even a bool one)"


def _place(rows: Rows, at: int) -> tuple[int, int]:
    """Return row and position of an index into the rows end to end."""
    for index, row in enumerate(rows):
        if at < len(row):
            return index, at
        at -= len(row)
    raise IndexError(at)

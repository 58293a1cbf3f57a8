"""What an encoder-decoder's decoder reads (teacher forcing), and the labels it is scored by."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.token_rows import (
    IGNORED,
    Rows,
    as_texts,
    check_shape,
    content_ids,
    mask_rows,
    pad_tokens,
    surrounded,
    token_ids,
)

DECODER = ("decoder_input_ids", "decoder_attention_mask", "labels")


def read_decoder(model: Model, given: Mapping[str, Any]) -> dict[str, Rows]:
    """Read what a mapping says of the decoder.

    Raises:
        PyengineError: for values out of range and shapes that differ.
    """
    rows: dict[str, Rows] = {}
    if "decoder_input_ids" in given:
        rows["decoder_input_ids"] = token_ids(
            model, given["decoder_input_ids"], "decoder_input_ids"
        )
    if "labels" in given:
        rows["labels"] = token_ids(model, given["labels"], "labels", also=IGNORED)
    if "decoder_attention_mask" in given:
        if not rows:
            raise PyengineError("decoder_attention_mask needs decoder_input_ids or labels")
        rows["decoder_attention_mask"] = mask_rows(
            given["decoder_attention_mask"], "decoder_attention_mask"
        )
    first = next(iter(rows), "")
    for name in rows:
        check_shape(name, rows[name], first, rows[first])
    return rows


def decoder_inputs(
    model: Model, given: Mapping[str, Rows], content: Rows, target: Any
) -> tuple[dict[str, Tensor], Rows | None]:
    """Return the decoder's keyword arguments, padded on the right, and the rows of labels.

    Args:
        model: an encoder-decoder.
        given: what `read_decoder` read.
        content: without target, the decoder reads the start token and these.
        target: a text or ids per row, in any form; None: none.

    Raises:
        PyengineError: for a target beside what was given, or not one row per input.
    """
    labels = given.get("labels")
    if target is not None:
        if given:
            raise PyengineError(f"give target= or the inputs' {', '.join(given)}, not both")
        labels = _target_rows(model, target)
    if "decoder_input_ids" in given:
        rows = given["decoder_input_ids"]
    elif labels is not None:
        rows = [_after_start(model, row[:-1]) for row in labels]
    else:
        rows = [_after_start(model, row) for row in content]
    if len(rows) != len(content):
        name = next(iter(given), "target")
        raise PyengineError(f"{name} has {len(rows)} rows for {len(content)} inputs; give as many")
    ids, mask = pad_tokens(model, rows, given.get("decoder_attention_mask"), "right")
    kwargs = {"decoder_input_ids": ids}
    return kwargs if mask is None else kwargs | {"decoder_attention_mask": mask}, labels


def _target_rows(model: Model, target: Any) -> Rows:
    """Return labels: texts with the model's special tokens, ids as given, without padding."""
    if (texts := as_texts(target)) is not None:
        special = model.special_tokens()
        return [surrounded(row, special) for row in content_ids(model, texts, "target")]
    if not isinstance(target, Mapping):
        return token_ids(model, target, "target")
    if unknown := set(target) - {"input_ids", "attention_mask"}:
        raise PyengineError(f"target has {min(unknown)}; known are: input_ids, attention_mask")
    rows = token_ids(model, target.get("input_ids"), "target")
    mask = target.get("attention_mask")
    kept = [torch.ones_like(row) for row in rows] if mask is None else mask_rows(mask, "target")
    check_shape("the target's attention_mask", kept, "its input_ids", rows)
    return [row[keep.bool()] for row, keep in zip(rows, kept, strict=True)]


def _after_start(model: Model, row: Tensor) -> Tensor:
    """Put the decoder's start token before a row; labels that are ignored read as padding."""
    start = row.new_tensor([model.decoder_start_id])
    return torch.cat([start, row.masked_fill(row == IGNORED, model.pad_id)])

"""Inputs of a model, in any form, as checked rows that are not yet padded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.models import Model, SpecialTokens
from pyengine.target_inputs import DECODER, read_decoder
from pyengine.token_rows import (
    IGNORED,
    Rows,
    as_texts,
    check_shape,
    content_ids,
    mask_rows,
    rows_of,
    surrounded,
    token_ids,
    whole_numbers,
)


@dataclass(frozen=True, eq=False)
class InputRows:
    """Inputs as rows.

    Attributes:
        given: by keyword argument: `input_ids` with special tokens, and what else has their shape.
        content: the tokens without special ones (of ids: all), padding left out.
        origin: the input that each row came from.
        answers: the labels given and, for an encoder-decoder, what was given of the decoder.
    """

    given: dict[str, Rows]
    content: Rows
    origin: list[int]
    answers: dict[str, Rows]


def read_inputs(model: Model, inputs: Any, overlong: str) -> InputRows:
    """Do what `pyengine.model_inputs.model_inputs` says, up to padding."""
    if isinstance(inputs, Mapping):
        return _read_mapping(model, inputs)
    texts = as_texts(inputs)
    if texts is None:
        special, content = SpecialTokens(), token_ids(model, inputs, "inputs")
    else:
        special, content = model.special_tokens(), content_ids(model, texts, "inputs")
    origin = list(range(len(content)))
    cuttable = not isinstance(inputs, (Tensor, np.ndarray))
    if cuttable and overlong == "window" and (longest := _longest(model)) is not None:
        pieces = [row.split(longest - len(special)) for row in content]
        origin = [i for i, windows in enumerate(pieces) for _ in windows]
        content = [window for windows in pieces for window in windows]
    rows = [surrounded(row, special) for row in content]
    way_out = "overlong='window' (--overlong window) cuts it" if cuttable else "cut it"
    _check_length(model, rows, way_out)
    return InputRows({"input_ids": rows}, content, origin, {})


def _read_mapping(model: Model, inputs: Mapping[str, Any]) -> InputRows:
    """Read what a tokenizer returned, or the like."""
    values = {name: value for name, value in inputs.items() if value is not None}
    _check_names(model, values)
    ids = token_ids(model, values["input_ids"], "input_ids")
    _check_length(model, ids, "cut it")
    given = {"input_ids": ids}
    if "attention_mask" in values:
        given["attention_mask"] = mask_rows(values["attention_mask"], "attention_mask")
    for name, what, limit in (
        ("token_type_ids", "token types", getattr(model.config, "type_vocab_size", 0)),
        ("position_ids", "positions", model.max_positions),
    ):
        if name in values:
            rows = rows_of(values[name], name)
            given[name] = whole_numbers(rows, name, limit, f"{model.name} has {limit} {what}")
    if model.family.encoder_decoder:
        answers = read_decoder(model, values)
    elif "labels" in values:
        answers = {"labels": token_ids(model, values["labels"], "labels", also=IGNORED)}
        check_shape("labels", answers["labels"], "input_ids", ids)
    else:
        answers = {}
    for name, rows in given.items():
        check_shape(name, rows, "input_ids", ids)
    return InputRows(given, _kept(ids, given.get("attention_mask")), list(range(len(ids))), answers)


def _check_names(model: Model, values: Mapping[str, Any]) -> None:
    known = ["input_ids", "attention_mask"]
    known += ["token_type_ids"] if model.family.token_types else []
    known += [] if model.family.stacks[0].relative else ["position_ids"]
    known += DECODER if model.family.encoder_decoder else ["labels"]
    for name in values:
        if name not in known:
            types = "; call the tokenizer with return_token_type_ids=False"
            raise PyengineError(
                f"{model.name} does not read {name!r}; known are: {', '.join(known)}"
                + (types if name == "token_type_ids" else "")
            )
    if "input_ids" not in values:
        raise PyengineError(f"inputs lack input_ids; known are: {', '.join(known)}")


def _longest(model: Model) -> int | None:
    """Return the longest input of absolute positions; relative ones have no end."""
    return None if model.family.stacks[0].relative else model.max_positions


def _check_length(model: Model, rows: Rows, fix: str) -> None:
    longest = _longest(model)
    for index, row in enumerate(rows):
        if longest is not None and len(row) > longest:
            raise PyengineError(
                f"input {index} has {len(row)} tokens, special ones included; {model.name} reads "
                f"at most {longest}: {fix}"
            )


def _kept(rows: Rows, mask: Rows | None) -> Rows:
    """Leave out what a mask hides."""
    if mask is None:
        return rows
    return [row[kept.to(row.device, torch.bool)] for row, kept in zip(rows, mask, strict=True)]

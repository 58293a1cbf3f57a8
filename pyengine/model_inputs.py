"""What a Hugging Face model reads: keyword arguments of its forward, from texts, ids or tensors.

A bare forward of left-padded rows, of a mask of four dimensions, or of token types that a family
lacks is wrong without a word: here positions come from the mask, and the others are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.input_rows import read_inputs
from pyengine.models import Model
from pyengine.target_inputs import decoder_inputs
from pyengine.token_rows import IGNORED, Rows, pad, pad_tokens

PADDING = ("right", "left")
OVERLONG = ("refuse", "window")


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """What `model.hf` reads.

    Attributes:
        kwargs: int64 tensors on the model's device: `input_ids` [B, T] and, where needed, of the
            same shape `attention_mask`, `position_ids`, `token_type_ids`, `labels`; for T5
            `decoder_input_ids`, `decoder_attention_mask` and `labels` [B, S].
        rows: for each of the B rows the index of the input that it came from.
    """

    kwargs: dict[str, Tensor]
    rows: list[int]

    @property
    def mask(self) -> Tensor | None:
        """The mask of `input_ids`, 0 = padding; None where nothing is padded."""
        return self.kwargs.get("attention_mask")

    @property
    def n_rows(self) -> int:
        return len(self.rows)


def model_inputs(
    model: Model,
    inputs: Any,
    *,
    target: Any = None,
    padding: str = "right",
    overlong: str = "refuse",
    loss: bool = False,
    decoder: bool = True,
) -> ModelInputs:
    """Turn anything that can be read into the keyword arguments of `model.hf`.

    Texts get the model's special tokens (a causal model's none: no BOS); ids are fed as given.
    Rows are padded to the longest; where none is shorter and no mask was given, there is no mask.
    Models with absolute positions get `position_ids` that count from each row's first token, where
    the mask hides something before it; other masks need none, and keep the bits of a plain forward.

    Args:
        model: what reads them.
        inputs: a text, a list of texts, ids ([T] or [B, T]: tensor, array or lists, also of
            different lengths), or a mapping as tokenizers return it: `input_ids` and, of the same
            shape, `attention_mask` (1 = token), `token_type_ids` (BERT), `position_ids` (not T5)
            and `labels` (-100 = not scored); T5's `labels`, `decoder_input_ids` and
            `decoder_attention_mask` have a shape of their own.
        target: for T5, one per input: texts, which get their special tokens; ids in the same
            forms, taken as they are; or a mapping of `input_ids` and `attention_mask`. They are
            the labels; the decoder reads the start token and all but the last of them, padded on
            the right. Without, it reads the start token and the input's own tokens (of a text:
            without special ones).
        padding: the side of the padding, `right` or `left`.
        overlong: what becomes of a text or a list of ids that is longer than the model reads:
            `refuse`, or `window`: it is cut into windows that do not overlap, each a row with its
            own special tokens, the tail kept. T5 has no longest input.
        loss: also return `labels`; without, they are left out even where given. A causal model's
            are its own input, but for padding and for tokens that only padding precedes.
        decoder: whether T5's decoder will run; if not, nothing is returned for it.

    Raises:
        PyengineError: for inputs that are empty, unreadable or too long, ids out of the vocabulary,
            shapes that differ, what the family does not read, or a loss without labels.
    """
    check_choice("padding", padding, PADDING)
    check_choice("overlong", overlong, OVERLONG)
    if target is not None and not _has_decoder(model):
        raise PyengineError(f"target is for an encoder-decoder's decoder; {model.name} has none")
    read = read_inputs(model, inputs, overlong)
    kwargs = _padded(model, read.given, padding)
    kwargs |= _positions(model, kwargs) | _whole_mask(model, kwargs)
    labels, side = read.answers.get("labels"), padding
    if decoder and _has_decoder(model):
        more, labels = decoder_inputs(model, read.answers, read.content, target)
        kwargs, side = kwargs | more, "right"
    elif model.family.encoder_decoder and loss:
        raise PyengineError(f"the loss of {model.name} needs its decoder")
    if loss:
        kwargs["labels"] = _labels(model, kwargs, labels, side)
    return ModelInputs(kwargs, read.origin)


def _has_decoder(model: Model) -> bool:
    """Whether there are two stacks; a T5 encoder may be loaded on its own."""
    return len({layer.stack.name for layer in model.layers}) == 2


def _padded(model: Model, given: Mapping[str, Rows], side: str) -> dict[str, Tensor]:
    ids, mask = pad_tokens(model, given["input_ids"], given.get("attention_mask"), side)
    kwargs = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
    for name in ("token_type_ids", "position_ids"):
        if name in given:
            kwargs[name] = pad(given[name], 0, side, model.device)
    return kwargs


def _positions(model: Model, kwargs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Count positions from each row's first token, where Hugging Face would from the padding."""
    mask = kwargs.get("attention_mask")
    if mask is None or "position_ids" in kwargs or model.family.stacks[0].relative:
        return {}
    hidden = (mask.cumsum(1) == 0).sum(1, keepdim=True)  # before each row's first token
    if not bool(hidden.any()):
        return {}
    columns = torch.arange(mask.shape[1], device=mask.device)
    return {"position_ids": (columns - hidden).clamp(min=0)}


def _whole_mask(model: Model, kwargs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Say that rows are whole: without a mask, positions that step back would cut them in two."""
    if "position_ids" not in kwargs or "attention_mask" in kwargs or not model.family.causal:
        return {}
    return {"attention_mask": torch.ones_like(kwargs["input_ids"])}


def _labels(model: Model, kwargs: Mapping[str, Tensor], given: Rows | None, side: str) -> Tensor:
    """Return the labels, -100 where nothing is scored."""
    if given is not None:
        labels = pad(given, IGNORED, side, model.device)
    elif model.family.causal:
        labels = _own_labels(kwargs)
    else:
        need = "target=, or labels" if model.family.encoder_decoder else "labels"
        raise PyengineError(f"the loss of {model.name} needs {need} beside input_ids")
    # Hugging Face scores a causal model's label by the logits before it: the first by none.
    scored = labels[:, 1:] if model.family.causal else labels
    if not bool((scored != IGNORED).any()):
        raise PyengineError("there is no token to score: the loss would be NaN")
    return labels


def _own_labels(kwargs: Mapping[str, Tensor]) -> Tensor:
    """Score each token that a token precedes."""
    ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
    if mask is None:
        return ids.clone()
    scored = mask.bool()
    # What padding precedes would be predicted from the padding.
    scored[:, 1:] &= mask[:, :-1].bool()
    return torch.where(scored, ids, IGNORED)

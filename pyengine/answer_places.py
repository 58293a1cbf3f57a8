"""Where the answer stands, as the inputs of a running forward pass show it.

For hooks on a model that somebody else runs: a batch of any shape, or a step of a generation.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pyengine.cloze import SENTINEL
from pyengine.errors import PyengineError
from pyengine.families import Stack
from pyengine.models import Model

# By stack name: rows and columns of the answers in [B, T], int64 [n] each.
Places = dict[str, tuple[Tensor, Tensor]]


def watch_answers(model: Model, stack: Stack, places: Places) -> RemovableHandle:
    """Have every forward pass of a stack write into `places` where its answers stand.

    - An encoder's: every mask (BERT) or the sentinel (T5), in each row.
    - A decoder's: the last token of each row that is not padding, as `attention_mask` says; without
      one (or with one of four dimensions, which `generate` makes for a static cache) the last
      column. With a key-value cache that is the newest token.

    Raises:
        PyengineError: if the tokenizer has no such token; inside a forward pass, if a row has none,
            or if the encoder reads embeddings instead of ids.
    """
    mark = None if stack.causal else _mark(model)
    body = model.body.get_submodule(stack.name) if model.family.encoder_decoder else model.body
    signature = inspect.signature(body.forward)

    def look(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = signature.bind_partial(*args, **kwargs).arguments
        places[stack.name] = _last(inputs) if mark is None else _marked(inputs, *mark)

    return body.register_forward_pre_hook(look, with_kwargs=True)


def _mark(model: Model) -> tuple[str, int]:
    """Return the token that stands in an encoder's input for the answer, and its id."""
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        raise PyengineError(
            f"{model.name} has no tokenizer to tell where the answer is; use positions='all'"
        )
    token = SENTINEL if model.family.encoder_decoder else tokenizer.mask_token
    found = None if token is None else tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise PyengineError(
            f"the tokenizer of {model.name} has no {token or 'mask token'}; use positions='all'"
        )
    return token, found


def _marked(inputs: Mapping[str, Any], token: str, mark: int) -> tuple[Tensor, Tensor]:
    ids = inputs.get("input_ids")
    if ids is None:
        raise PyengineError(
            f"the encoder was given inputs_embeds, where no {token} can be seen; give input_ids, "
            "or use positions='all'"
        )
    here = ids == mark
    if not bool(here.any(1).all()):
        raise PyengineError(
            f"an input has no {token}, where the answer would be; use positions='all'"
        )
    rows, columns = here.nonzero(as_tuple=True)
    return rows, columns


def _last(inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    read = inputs.get("input_ids")
    read = inputs["inputs_embeds"] if read is None else read
    n_rows, length = read.shape[:2]
    mask = inputs.get("attention_mask")
    after = torch.zeros(n_rows, dtype=torch.int64, device=read.device)
    if mask is not None and mask.dim() == 2:
        # A cache's mask covers what was read before, too; argmax takes the first of equals.
        after = (mask[:, -length:] != 0).flip(1).int().argmax(1).to(read.device)
    return torch.arange(n_rows, device=read.device), length - 1 - after

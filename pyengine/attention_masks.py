"""Attention masks made without looking at their values.

transformers asks of each mask whether anything is hidden, which makes the host wait for the GPU in
every batch. Here the host knows already: it padded the batch.
"""

import contextlib
import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

# Implementations that take masks [B, 1, T, T]; those of others are left to transformers.
GIVEN = ("eager", "sdpa")
ITS_ATTENTION = GPTNeoSelfAttention._attn  # where somebody has put another, that is used


def run_stack(
    stack: Any, input_ids: Tensor, padding: Tensor | None, *, causal: bool, **inputs: Any
) -> Tensor:
    """Run a stack of a model on right-padded rows, bit for bit as transformers does.

    Args:
        stack: a body, or T5's encoder or decoder; a copy of the caller's.
        input_ids: [B, T].
        padding: [B, T], 0 = padding, at least one; or None. A causal stack, where padding comes
            after all that counts, only shows it to hooks on the stack.
        causal: whether the stack is.
        inputs: whatever else it takes; `encoder_attention_mask` as `padding`.

    Returns:
        [B, T, d_model].
    """
    if stack._forward_pre_hooks or stack.config._attn_implementation not in GIVEN:
        return _hidden(stack(input_ids=input_ids, attention_mask=padding, **inputs))
    mask = causal_mask(stack, input_ids) if causal else padding_mask(stack, input_ids, padding)
    if (encoder_padding := inputs.get("encoder_attention_mask")) is not None:
        inputs["encoder_attention_mask"] = padding_mask(stack, input_ids, encoder_padding)
    with masks_given(stack):
        return _hidden(stack(input_ids=input_ids, attention_mask=mask, **inputs))


@contextlib.contextmanager
def masks_given(stack: Any) -> Iterator[None]:
    """Have a stack take masks as they are given; None then means none, not that one is to be made.

    Its attentions hold the configuration themselves, and go on computing as it says.
    """
    own = stack.config
    stack.config = copy.copy(own)
    stack.config._attn_implementation_internal = "masks given"  # not one that transformers knows
    try:
        yield
    finally:
        stack.config = own


def causal_mask(stack: Any, input_ids: Tensor) -> Tensor | None:
    """Return transformers' mask of a causal stack for [B, T] ids; None where it needs none."""
    mask: Any = create_causal_mask(
        config=stack.config,
        inputs_embeds=_empty_states(stack, input_ids),
        attention_mask=None,
        past_key_values=None,  # and no positions, which it would search for packed sequences
    )
    return mask


def padding_mask(stack: Any, input_ids: Tensor, padding: Tensor | None) -> Tensor | None:
    """Return transformers' mask that hides padding from queries at [B, T] ids.

    Args:
        stack: what it is for.
        input_ids: [B, Tq], what the queries are computed of.
        padding: [B, Tk], 0 = hidden, at least one; None: nothing is.
    """
    mask: Any = create_bidirectional_mask(
        config=stack.config,
        inputs_embeds=_empty_states(stack, input_ids),
        attention_mask=padding,
        allow_is_bidirectional_skip=padding is None,  # else it would look for padding
    )
    return mask


def constants_on_device(body: nn.Module) -> None:
    """Have GPT-Neo's attentions in a copy make a constant where it is needed, with the same bits.

    They copy it from the host instead, once a layer, and wait for that.
    """
    for module in body.modules():
        attention = getattr(getattr(module, "_attn", None), "__func__", None)
        if type(module) is GPTNeoSelfAttention and attention is ITS_ATTENTION:
            vars(module)["_attn"] = partial(_gpt_neo_attention, module)


def _hidden(out: Any) -> Tensor:
    hidden: Tensor = out[0]
    return hidden


def _empty_states(stack: Any, input_ids: Tensor) -> Tensor:
    """Return hidden states without numbers: masks take only their shape, dtype and device."""
    dtype = next(stack.parameters()).dtype
    return torch.empty((*input_ids.shape, 0), dtype=dtype, device=input_ids.device)


def _gpt_neo_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Do what `GPTNeoSelfAttention._attn` does."""
    scores = torch.matmul(query.float(), key.float().transpose(-1, -2))
    n_queries, n_keys = scores.shape[-2:]
    seen = module.bias[:, :, n_keys - n_queries : n_keys, :n_keys]
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1).to(value.dtype)
    weights = module.attn_dropout(weights)
    return torch.matmul(weights, value), weights

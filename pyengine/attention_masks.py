"""Attention masks made without looking at their values.

transformers asks of each mask whether anything is hidden, or copies a constant from the host, which
makes the host wait for the GPU in every batch; where depends on its version. Here the host knows
already: it padded the batch.
"""

import contextlib
import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

# Implementations that take masks [B or 1, 1, T, T]; those of others are left to transformers.
GIVEN = ("eager", "sdpa")
ITS_ATTENTION = GPTNeoSelfAttention._attn  # where somebody has put another, that is used


def run_stack(
    stack: Any,
    input_ids: Tensor,
    padding: Tensor | None,
    *,
    causal: bool,
    takes_masks: bool = True,
    **inputs: Any,
) -> Tensor:
    """Run a stack of a model on right-padded rows, bit for bit as transformers does.

    Args:
        stack: a body, or T5's encoder or decoder; a copy of the caller's.
        input_ids: [B, T].
        padding: [B, T], 0 = padding, at least one; or None. A causal stack, where padding comes
            after all that counts, only shows it to hooks on the stack.
        causal: whether the stack is.
        takes_masks: whether it can be given masks; else it makes its own of the padding.
        inputs: whatever else it takes; `encoder_attention_mask` as `padding`.

    Returns:
        [B, T, d_model].
    """
    given = takes_masks and stack.config._attn_implementation in GIVEN
    if stack._forward_pre_hooks or not given:
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
    """Return the mask [1, 1, T, T] of a causal stack for [B, T] ids; None: sdpa needs none.

    Without one, sdpa goes by the `is_causal` of the attentions, T5's too.
    """
    if stack.config._attn_implementation == "sdpa":
        return None
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    return _to_add(stack, positions <= positions[:, None])[None, None]


def padding_mask(stack: Any, input_ids: Tensor, padding: Tensor | None) -> Tensor | None:
    """Return the mask [B, 1, Tq, Tk] that hides padding from queries at [B, Tq] ids.

    Args:
        stack: what it is for.
        input_ids: [B, Tq], what the queries are computed of.
        padding: [B, Tk], 0 = hidden, at least one; None: nothing is, and no mask is needed.
    """
    if padding is None:
        return None
    seen = padding.bool()
    mask = seen if stack.config._attn_implementation == "sdpa" else _to_add(stack, seen)
    return mask[:, None, None].expand(-1, -1, input_ids.shape[1], -1)


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


def _to_add(stack: Any, seen: Tensor) -> Tensor:
    """Return what eager attention adds to its scores: 0 where a key is seen, else the least."""
    dtype = next(stack.parameters()).dtype
    zero = torch.zeros((), dtype=dtype, device=seen.device)  # filled there, not copied
    return torch.where(seen, zero, torch.finfo(dtype).min)


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

"""The sites of BERT and ELECTRA with their masked-language heads by hand; see `site_oracle`."""

from collections.abc import Callable
from typing import Any

import torch
from site_oracle_parts import ACTIVATIONS, Inputs, Sites, Weights, attention, key_mask, layer_norm
from torch import Tensor


def bert_sites(weights: Weights, config: Any, inputs: Inputs) -> Sites:
    """Recompute BERT: norms come after the additions."""
    head, act = weights / "cls" / "predictions", ACTIVATIONS[config.hidden_act]
    sites, x = _body(weights / "bert", config, inputs)
    _head(sites, x, head / "transform", act, head / "decoder", config.layer_norm_eps)
    return sites


def electra_sites(weights: Weights, config: Any, inputs: Inputs) -> Sites:
    """Recompute ELECTRA's generator: BERT, but for widths, and the head's own non-linearity."""
    head, act = weights / "generator_predictions", ACTIVATIONS["gelu"]
    sites, x = _body(weights / "electra", config, inputs)
    _head(sites, x, head, act, weights / "generator_lm_head", config.layer_norm_eps)
    return sites


def _body(body: Weights, config: Any, inputs: Inputs) -> tuple[Sites, Tensor]:
    sites: Sites = {}
    act, eps = ACTIVATIONS[config.hidden_act], config.layer_norm_eps
    n_heads = config.num_attention_heads
    ids = inputs["input_ids"]
    positions = inputs.get("position_ids", torch.arange(ids.shape[1])[None])
    types = inputs.get("token_type_ids", torch.zeros_like(ids))
    visible = key_mask(inputs, "attention_mask", "input_ids")

    tables = body / "embeddings"
    embed = sites["hook_embed"] = tables["word_embeddings.weight"][ids]
    type_embed = tables["token_type_embeddings.weight"][types]
    sites["token_type_embed.hook_out"] = type_embed
    pos_embed = sites["hook_pos_embed"] = tables["position_embeddings.weight"][positions]
    total = embed + type_embed + pos_embed
    x = layer_norm(sites, "embed_ln", total, tables / "LayerNorm", eps)
    if getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
        x = (body / "embeddings_project").linear(x)
    for layer in range(config.num_hidden_layers):
        block, name = body / "encoder" / "layer" / layer, f"blocks.{layer}"
        inside, output = block / "attention" / "self", block / "attention" / "output"
        sites[f"{name}.hook_resid_pre"] = x
        q, k, v = ((inside / part).linear(x) for part in ("query", "key", "value"))
        scale = (config.hidden_size // n_heads) ** -0.5
        z = attention(sites, f"{name}.attn", (q, k, v), n_heads, visible, scale)
        added = sites[f"{name}.hook_attn_out"] = (output / "dense").linear(z)
        middle = sites[f"{name}.hook_resid_mid"] = x + added
        x = layer_norm(sites, f"{name}.ln1", middle, output / "LayerNorm", eps)
        sites[f"{name}.hook_normalized_resid_mid"] = x
        pre = sites[f"{name}.mlp.hook_pre"] = (block / "intermediate" / "dense").linear(x)
        post = sites[f"{name}.mlp.hook_post"] = act(pre)
        added = sites[f"{name}.hook_mlp_out"] = (block / "output" / "dense").linear(post)
        end = sites[f"{name}.hook_resid_post"] = x + added
        x = layer_norm(sites, f"{name}.ln2", end, block / "output" / "LayerNorm", eps)
        sites[f"{name}.hook_normalized_resid_post"] = x
    return sites, x


def _head(
    sites: Sites,
    x: Tensor,
    transform: Weights,
    act: Callable[[Tensor], Tensor],
    decoder: Weights,
    eps: float,
) -> None:
    sites["mlm_head.hook_in"] = x
    x = sites["mlm_head.hook_out"] = (transform / "dense").linear(x)
    x = layer_norm(sites, "ln_final", act(x), transform / "LayerNorm", eps)
    sites["unembed.hook_in"] = x
    sites["unembed.hook_out"] = decoder.linear(x)

"""The sites of GPT-2, GPT-Neo and the first GPT by hand; see `site_oracle`."""

from collections.abc import Callable
from typing import Any

import torch
from site_oracle_parts import (
    ACTIVATIONS,
    Inputs,
    Sites,
    Weights,
    attention,
    causal,
    key_mask,
    layer_norm,
)
from torch import Tensor

# Writes one block's attention and returns what it adds to the residual stream.
Attend = Callable[[Sites, int, Tensor, Weights, Tensor], Tensor]


def gpt2_sites(weights: Weights, config: Any, inputs: Inputs) -> Sites:
    """Recompute GPT-2: one matrix for queries, keys and values, stored [n_in, n_out]."""

    def attend(sites: Sites, layer: int, x: Tensor, block: Weights, padding: Tensor) -> Tensor:
        scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        q, k, v = (block / "attn" / "c_attn").conv1d(x).split(config.n_embd, dim=-1)
        visible = padding & causal(x.shape[1])
        name = f"blocks.{layer}.attn"
        z = attention(sites, name, (q, k, v), config.n_head, visible, scale)
        return (block / "attn" / "c_proj").conv1d(z)

    return _sites(weights, config, inputs, attend, Weights.conv1d)


def gpt_neo_sites(weights: Weights, config: Any, inputs: Inputs) -> Sites:
    """Recompute GPT-Neo: scores are not scaled; local layers see `window_size` tokens."""

    def attend(sites: Sites, layer: int, x: Tensor, block: Weights, padding: Tensor) -> Tensor:
        inside = block / "attn" / "attention"
        q, k, v = ((inside / f"{part}_proj").linear(x) for part in "qkv")
        local = config.attention_layers[layer] == "local"
        visible = padding & causal(x.shape[1], config.window_size if local else None)
        z = attention(sites, f"blocks.{layer}.attn", (q, k, v), config.num_heads, visible)
        return (inside / "out_proj").linear(z)

    return _sites(weights, config, inputs, attend, Weights.linear)


def openai_gpt_sites(weights: Weights, config: Any, inputs: Inputs) -> Sites:
    """Recompute openai-gpt: norms after the additions, none at the end; its gelu is the new one."""
    sites: Sites = {}
    body, eps = weights / "transformer", config.layer_norm_epsilon
    act = ACTIVATIONS["gelu_new" if config.afn == "gelu" else config.afn]
    ids = inputs["input_ids"]
    positions = inputs.get("position_ids", torch.arange(ids.shape[1])[None])
    visible = key_mask(inputs, "attention_mask", "input_ids") & causal(ids.shape[1])

    embed = sites["hook_embed"] = body["tokens_embed.weight"][ids]
    pos_embed = sites["hook_pos_embed"] = body["positions_embed.weight"][positions]
    x = embed + pos_embed
    for layer in range(config.n_layer):
        block, name = body / "h" / layer, f"blocks.{layer}"
        sites[f"{name}.hook_resid_pre"] = x
        q, k, v = (block / "attn" / "c_attn").conv1d(x).split(config.n_embd, dim=-1)
        scale = (config.n_embd // config.n_head) ** -0.5
        z = attention(sites, f"{name}.attn", (q, k, v), config.n_head, visible, scale)
        added = sites[f"{name}.hook_attn_out"] = (block / "attn" / "c_proj").conv1d(z)
        middle = sites[f"{name}.hook_resid_mid"] = x + added
        x = layer_norm(sites, f"{name}.ln1", middle, block / "ln_1", eps)
        sites[f"{name}.hook_normalized_resid_mid"] = x
        pre = sites[f"{name}.mlp.hook_pre"] = (block / "mlp" / "c_fc").conv1d(x)
        post = sites[f"{name}.mlp.hook_post"] = act(pre)
        added = sites[f"{name}.hook_mlp_out"] = (block / "mlp" / "c_proj").conv1d(post)
        end = sites[f"{name}.hook_resid_post"] = x + added
        x = layer_norm(sites, f"{name}.ln2", end, block / "ln_2", eps)
        sites[f"{name}.hook_normalized_resid_post"] = x
    sites["unembed.hook_in"] = x
    sites["unembed.hook_out"] = (weights / "lm_head").linear(x)
    return sites


def _sites(
    weights: Weights,
    config: Any,
    inputs: Inputs,
    attend: Attend,
    affine: Callable[[Weights, Tensor], Tensor],
) -> Sites:
    sites: Sites = {}
    body = weights / "transformer"
    act = ACTIVATIONS[config.activation_function]
    eps = config.layer_norm_epsilon
    ids = inputs["input_ids"]
    positions = inputs.get("position_ids", torch.arange(ids.shape[1])[None])
    padding = key_mask(inputs, "attention_mask", "input_ids")

    embed = sites["hook_embed"] = body["wte.weight"][ids]
    pos_embed = sites["hook_pos_embed"] = body["wpe.weight"][positions]
    x = embed + pos_embed
    for layer in range(config.num_hidden_layers):
        block, name = body / "h" / layer, f"blocks.{layer}"
        sites[f"{name}.hook_resid_pre"] = x
        normed = layer_norm(sites, f"{name}.ln1", x, block / "ln_1", eps)
        added = sites[f"{name}.hook_attn_out"] = attend(sites, layer, normed, block, padding)
        x = sites[f"{name}.hook_resid_mid"] = x + added
        normed = layer_norm(sites, f"{name}.ln2", x, block / "ln_2", eps)
        pre = sites[f"{name}.mlp.hook_pre"] = affine(block / "mlp" / "c_fc", normed)
        post = sites[f"{name}.mlp.hook_post"] = act(pre)
        added = sites[f"{name}.hook_mlp_out"] = affine(block / "mlp" / "c_proj", post)
        x = sites[f"{name}.hook_resid_post"] = x + added
    x = sites["unembed.hook_in"] = layer_norm(sites, "ln_final", x, body / "ln_f", eps)
    sites["unembed.hook_out"] = (weights / "lm_head").linear(x)
    return sites

"""The sites of BERT with its masked-language head by hand; see `site_oracle`."""

from typing import Any

import torch
from site_oracle_parts import ACTIVATIONS, Inputs, Sites, Weights, attention, key_mask, layer_norm


def bert_sites(weights: Weights, config: Any, inputs: Inputs) -> Sites:
    """Recompute BERT: norms come after the additions."""
    sites: Sites = {}
    body, head = weights / "bert", weights / "cls" / "predictions"
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

    sites["mlm_head.hook_in"] = x
    x = sites["mlm_head.hook_out"] = (head / "transform" / "dense").linear(x)
    x = layer_norm(sites, "ln_final", act(x), head / "transform" / "LayerNorm", eps)
    sites["unembed.hook_in"] = x
    sites["unembed.hook_out"] = (head / "decoder").linear(x)
    return sites

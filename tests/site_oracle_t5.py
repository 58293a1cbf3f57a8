"""The sites of T5 (plain, gated; encoder, decoder, cross-attention) by hand; see `site_oracle`."""

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
    rms_norm,
)
from torch import Tensor


def t5_sites(weights: Weights, config: Any, inputs: Inputs) -> Sites:
    """Recompute T5: relative positions, unscaled scores, norms without mean and bias."""
    sites: Sites = {}
    source = key_mask(inputs, "attention_mask", "input_ids")
    target = key_mask(inputs, "decoder_attention_mask", "decoder_input_ids")
    n_source, n_target = inputs["input_ids"].shape[1], inputs["decoder_input_ids"].shape[1]
    table = weights["shared.weight"]

    stack = weights / "encoder"
    x = sites["hook_embed"] = table[inputs["input_ids"]]
    bias = sites["hook_pos_embed"] = _relative_bias(stack, config, n_source, both_sides=True)
    for layer in range(config.num_layers):
        block, name = stack / "block" / layer / "layer", f"encoder_blocks.{layer}"
        sites[f"{name}.hook_resid_pre"] = x
        normed = _norm(sites, f"{name}.ln1", x, block / 0, config)
        added = _attend(sites, f"{name}.attn", normed, normed, block / 0, config, source, bias)
        sites[f"{name}.hook_attn_out"] = added
        x = sites[f"{name}.hook_resid_mid"] = x + added
        normed = _norm(sites, f"{name}.ln2", x, block / 1, config)
        x = x + _feed_forward(sites, name, normed, block / 1, config)
        sites[f"{name}.hook_resid_post"] = x
    memory = _final_norm(sites, "encoder_ln_final", x, stack, config)

    stack = weights / "decoder"
    x = sites["decoder_embed.hook_out"] = table[inputs["decoder_input_ids"]]
    bias = _relative_bias(stack, config, n_target, both_sides=False)
    sites["decoder_pos_embed.hook_out"] = bias
    before = target & causal(n_target)
    for layer in range(config.num_decoder_layers):
        block, name = stack / "block" / layer / "layer", f"decoder_blocks.{layer}"
        sites[f"{name}.hook_resid_pre"] = x
        normed = _norm(sites, f"{name}.ln1", x, block / 0, config)
        added = _attend(sites, f"{name}.self_attn", normed, normed, block / 0, config, before, bias)
        sites[f"{name}.hook_attn_out"] = added
        x = sites[f"{name}.hook_resid_mid"] = x + added
        normed = _norm(sites, f"{name}.ln2", x, block / 1, config)
        added = _attend(sites, f"{name}.cross_attn", normed, memory, block / 1, config, source)
        sites[f"{name}.hook_cross_attn_out"] = added
        x = sites[f"{name}.hook_resid_mid_cross"] = x + added
        normed = _norm(sites, f"{name}.ln3", x, block / 2, config)
        x = x + _feed_forward(sites, name, normed, block / 2, config)
        sites[f"{name}.hook_resid_post"] = x
    x = _final_norm(sites, "decoder_ln_final", x, stack, config)

    # The original models scale the outputs, version 1.1 does not; the matrix may be the embedding.
    x = sites["unembed.hook_in"] = x * (config.d_model**-0.5 if config.scale_decoder_outputs else 1)
    sites["unembed.hook_out"] = (weights / "lm_head").linear(x)
    return sites


def _norm(sites: Sites, name: str, x: Tensor, layer: Weights, config: Any) -> Tensor:
    return rms_norm(sites, name, x, layer / "layer_norm", config.layer_norm_epsilon)


def _final_norm(sites: Sites, name: str, x: Tensor, stack: Weights, config: Any) -> Tensor:
    return rms_norm(sites, name, x, stack / "final_layer_norm", config.layer_norm_epsilon)


def _attend(
    sites: Sites,
    name: str,
    x: Tensor,
    memory: Tensor,
    layer: Weights,
    config: Any,
    visible: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    inside = layer / ("EncDecAttention" if name.endswith("cross_attn") else "SelfAttention")
    qkv = (inside / "q").linear(x), (inside / "k").linear(memory), (inside / "v").linear(memory)
    added = 0.0 if bias is None else bias.permute(2, 0, 1)  # [T, S, H] to [H, T, S]
    z = attention(sites, name, qkv, config.num_heads, visible, bias=added)
    return (inside / "o").linear(z)


def _feed_forward(sites: Sites, name: str, x: Tensor, layer: Weights, config: Any) -> Tensor:
    inside, act = layer / "DenseReluDense", ACTIVATIONS[config.dense_act_fn]
    gate = sites[f"{name}.mlp.hook_pre"] = (
        inside / ("wi_0" if config.is_gated_act else "wi")
    ).linear(x)
    post = act(gate)
    if config.is_gated_act:
        up = sites[f"{name}.mlp.hook_pre_linear"] = (inside / "wi_1").linear(x)
        post = post * up
    sites[f"{name}.mlp.hook_post"] = post
    out = sites[f"{name}.hook_mlp_out"] = (inside / "wo").linear(post)
    return out


def _relative_bias(stack: Weights, config: Any, n: int, both_sides: bool) -> Tensor:
    """Return [T, S, H]: the bias of every head for key s as seen from query t."""
    table = stack["block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    n_buckets, furthest = (
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
    )
    buckets = [[bucket(s - t, n_buckets, furthest, both_sides) for s in range(n)] for t in range(n)]
    return table[torch.tensor(buckets)]


def bucket(offset: int, n_buckets: int, furthest: int, both_sides: bool) -> int:
    """Return the bucket of a relative position: Raffel et al. (2020), §2.1, in whole numbers.

    Half of the buckets hold one distance each, d < e; the others grow geometrically: distance d is
    in e + j for the largest j with log(d / e) / log(furthest / e) * (n - e) >= j, and in the last
    beyond. Where both sides count, keys after the query have the upper half of all buckets;
    otherwise they share the bucket of distance 0.
    """
    if both_sides:
        n, first = n_buckets // 2, n_buckets // 2 if offset > 0 else 0
        distance = abs(offset)
    else:
        n, first = n_buckets, 0
        distance = max(-offset, 0)
    e = n // 2
    if distance < e:
        return first + distance
    j = 0
    while j < n - e - 1 and distance ** (n - e) * e ** (j + 1) >= furthest ** (j + 1) * e ** (
        n - e
    ):
        j += 1
    return first + e + j

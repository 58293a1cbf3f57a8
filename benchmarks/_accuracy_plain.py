"""The values of every site as a plain Hugging Face forward gives them, by hooks typed by hand.

Nothing here knows of `pyengine.sites`: module paths stand here a second time, so that a wrong row
of that table shows.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Site -> module path from the whole model, side of the module, what to take of the tensor:
# `all`, `heads` (split the last dimension), `0` to `2` (a third of it, split into heads).
GPT2_BLOCK = {
    "blocks.{}.hook_resid_pre": ("transformer.h.{}", "in", "all"),
    "blocks.{}.ln1.hook_out": ("transformer.h.{}.ln_1", "out", "all"),
    "blocks.{}.attn.hook_q": ("transformer.h.{}.attn.c_attn", "out", "0"),
    "blocks.{}.attn.hook_k": ("transformer.h.{}.attn.c_attn", "out", "1"),
    "blocks.{}.attn.hook_v": ("transformer.h.{}.attn.c_attn", "out", "2"),
    "blocks.{}.attn.hook_z": ("transformer.h.{}.attn.c_proj", "in", "heads"),
    "blocks.{}.hook_attn_out": ("transformer.h.{}.attn", "out", "all"),
    "blocks.{}.hook_resid_mid": ("transformer.h.{}.ln_2", "in", "all"),
    "blocks.{}.ln2.hook_out": ("transformer.h.{}.ln_2", "out", "all"),
    "blocks.{}.mlp.hook_pre": ("transformer.h.{}.mlp.c_fc", "out", "all"),
    "blocks.{}.mlp.hook_post": ("transformer.h.{}.mlp.act", "out", "all"),
    "blocks.{}.hook_mlp_out": ("transformer.h.{}.mlp", "out", "all"),
    "blocks.{}.hook_resid_post": ("transformer.h.{}", "out", "all"),
}
GPT_REST = {
    "hook_embed": ("transformer.wte", "out", "all"),
    "hook_pos_embed": ("transformer.wpe", "out", "all"),
    "ln_final.hook_out": ("transformer.ln_f", "out", "all"),
    "unembed.hook_in": ("lm_head", "in", "all"),
}
GPT_NEO_BLOCK = GPT2_BLOCK | {
    "blocks.{}.attn.hook_q": ("transformer.h.{}.attn.attention.q_proj", "out", "heads"),
    "blocks.{}.attn.hook_k": ("transformer.h.{}.attn.attention.k_proj", "out", "heads"),
    "blocks.{}.attn.hook_v": ("transformer.h.{}.attn.attention.v_proj", "out", "heads"),
    "blocks.{}.attn.hook_z": ("transformer.h.{}.attn.attention.out_proj", "in", "heads"),
}
BERT_BLOCK = {
    "blocks.{}.hook_resid_pre": ("bert.encoder.layer.{}", "in", "all"),
    "blocks.{}.attn.hook_q": ("bert.encoder.layer.{}.attention.self.query", "out", "heads"),
    "blocks.{}.attn.hook_k": ("bert.encoder.layer.{}.attention.self.key", "out", "heads"),
    "blocks.{}.attn.hook_v": ("bert.encoder.layer.{}.attention.self.value", "out", "heads"),
    "blocks.{}.attn.hook_z": ("bert.encoder.layer.{}.attention.output.dense", "in", "heads"),
    "blocks.{}.hook_attn_out": ("bert.encoder.layer.{}.attention.output.dense", "out", "all"),
    "blocks.{}.hook_resid_mid": ("bert.encoder.layer.{}.attention.output.LayerNorm", "in", "all"),
    "blocks.{}.ln1.hook_out": ("bert.encoder.layer.{}.attention.output.LayerNorm", "out", "all"),
    "blocks.{}.ln2.hook_out": ("bert.encoder.layer.{}.output.LayerNorm", "out", "all"),
    "blocks.{}.hook_normalized_resid_mid": ("bert.encoder.layer.{}.attention", "out", "all"),
    "blocks.{}.mlp.hook_pre": ("bert.encoder.layer.{}.intermediate.dense", "out", "all"),
    "blocks.{}.mlp.hook_post": ("bert.encoder.layer.{}.intermediate", "out", "all"),
    "blocks.{}.hook_mlp_out": ("bert.encoder.layer.{}.output.dense", "out", "all"),
    "blocks.{}.hook_resid_post": ("bert.encoder.layer.{}.output.LayerNorm", "in", "all"),
    "blocks.{}.hook_normalized_resid_post": ("bert.encoder.layer.{}", "out", "all"),
}
BERT_REST = {
    "hook_embed": ("bert.embeddings.word_embeddings", "out", "all"),
    "hook_pos_embed": ("bert.embeddings.position_embeddings", "out", "all"),
    "token_type_embed.hook_out": ("bert.embeddings.token_type_embeddings", "out", "all"),
    "embed_ln.hook_out": ("bert.embeddings.LayerNorm", "out", "all"),
    "mlm_head.hook_in": ("cls.predictions.transform.dense", "in", "all"),
    "mlm_head.hook_out": ("cls.predictions.transform.dense", "out", "all"),
    "ln_final.hook_out": ("cls.predictions.transform", "out", "all"),
    "unembed.hook_in": ("cls.predictions.decoder", "in", "all"),
}


def _t5_block(stack: str, attention: str, ffn: int) -> dict[str, tuple[str, str, str]]:
    block, name = f"{stack}.block.{{}}", f"{stack}_blocks.{{}}"
    own, dense = f"{block}.layer.0.SelfAttention", f"{block}.layer.{ffn}.DenseReluDense"
    return {
        f"{name}.hook_resid_pre": (block, "in", "all"),
        f"{name}.ln1.hook_out": (f"{block}.layer.0.layer_norm", "out", "all"),
        f"{name}.{attention}.hook_q": (f"{own}.q", "out", "heads"),
        f"{name}.{attention}.hook_k": (f"{own}.k", "out", "heads"),
        f"{name}.{attention}.hook_v": (f"{own}.v", "out", "heads"),
        f"{name}.{attention}.hook_z": (f"{own}.o", "in", "heads"),
        f"{name}.hook_attn_out": (own, "out", "all"),
        f"{name}.hook_resid_mid": (f"{block}.layer.1", "in", "all"),
        f"{name}.ln2.hook_out": (f"{block}.layer.1.layer_norm", "out", "all"),
        f"{name}.mlp.hook_pre": (f"{dense}.wi", "out", "all"),
        f"{name}.mlp.hook_post": (f"{dense}.wo", "in", "all"),
        f"{name}.hook_mlp_out": (dense, "out", "all"),
        f"{name}.hook_resid_post": (block, "out", "all"),
    }


_CROSS = "decoder.block.{}.layer.1.EncDecAttention"
T5_BLOCK = (
    _t5_block("encoder", "attn", 1)
    | _t5_block("decoder", "self_attn", 2)
    | {
        "decoder_blocks.{}.cross_attn.hook_q": (f"{_CROSS}.q", "out", "heads"),
        "decoder_blocks.{}.cross_attn.hook_k": (f"{_CROSS}.k", "out", "heads"),
        "decoder_blocks.{}.cross_attn.hook_v": (f"{_CROSS}.v", "out", "heads"),
        "decoder_blocks.{}.cross_attn.hook_z": (f"{_CROSS}.o", "in", "heads"),
        "decoder_blocks.{}.hook_cross_attn_out": (_CROSS, "out", "all"),
        "decoder_blocks.{}.ln3.hook_out": ("decoder.block.{}.layer.2.layer_norm", "out", "all"),
        "decoder_blocks.{}.hook_resid_mid_cross": ("decoder.block.{}.layer.2", "in", "all"),
    }
)
_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias"
T5_REST = {
    "hook_embed": ("encoder.embed_tokens", "out", "all"),
    "decoder_embed.hook_out": ("decoder.embed_tokens", "out", "all"),
    "hook_pos_embed": (f"encoder.{_BIAS}", "out", "all"),
    "decoder_pos_embed.hook_out": (f"decoder.{_BIAS}", "out", "all"),
    "encoder_ln_final.hook_out": ("encoder.final_layer_norm", "out", "all"),
    "decoder_ln_final.hook_out": ("decoder.final_layer_norm", "out", "all"),
    "unembed.hook_in": ("lm_head", "in", "all"),
}
TABLES = {
    "gpt2": (GPT2_BLOCK, GPT_REST),
    "gpt_neo": (GPT_NEO_BLOCK, GPT_REST),
    "bert": (BERT_BLOCK, BERT_REST),
    "t5": (T5_BLOCK, T5_REST),
}
MAPS = {
    "gpt2": {"attentions": "blocks.{}.attn.hook_pattern"},
    "gpt_neo": {"attentions": "blocks.{}.attn.hook_pattern"},
    "bert": {"attentions": "blocks.{}.attn.hook_pattern"},
    "t5": {
        "encoder_attentions": "encoder_blocks.{}.attn.hook_pattern",
        "decoder_attentions": "decoder_blocks.{}.self_attn.hook_pattern",
        "cross_attentions": "decoder_blocks.{}.cross_attn.hook_pattern",
    },
}


@torch.no_grad()
def plain_values(hf: Any, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run a Hugging Face model and return its logits (`unembed.hook_out`) and its sites' values."""
    family = hf.config.model_type
    found: dict[str, Tensor] = {}
    hooks = [
        _watch(hf.get_submodule(path), side, what, name, found, hf.config.num_attention_heads)
        for name, path, side, what in _rows(hf, family)
    ]
    eager = hf.config._attn_implementation == "eager"
    try:
        out = hf(**kwargs, output_attentions=eager)
    finally:
        for hook in hooks:
            hook.remove()
    found["unembed.hook_out"] = out.logits
    if eager:
        for key, name in MAPS[family].items():
            found |= {name.format(i): value for i, value in enumerate(out[key])}
    return found


def _rows(hf: Any, family: str) -> Iterator[tuple[str, str, str, str]]:
    blocks, rest = TABLES[family]
    for name, (path, side, what) in rest.items():
        yield name, path, side, what
    for name, (path, side, what) in blocks.items():
        for number in range(64):
            try:
                hf.get_submodule(path.format(number))
            except AttributeError:
                break
            yield name.format(number), path.format(number), side, what


def _watch(
    module: nn.Module, side: str, what: str, name: str, found: dict[str, Tensor], heads: int
) -> Any:
    def take(value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        if what in "012":
            tensor = tensor.chunk(3, dim=-1)[int(what)]
        found[name] = tensor if what == "all" else tensor.unflatten(-1, (heads, -1))

    if side == "out":
        return module.register_forward_hook(lambda _m, _i, out: take(out))
    return module.register_forward_pre_hook(lambda _m, inputs: take(inputs))

"""The named tensors of a forward pass: what can be read and edited, and where.

Names are those of TransformerLens 4 (`blocks.{l}.mlp.hook_post`). All follow from the table of
`pyengine.families`; how other spellings are understood is in `pyengine.site_names`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from pyengine.families import Stack
from pyengine.layers import Layer
from pyengine.models import Model

# How a site's value is got from its module; see `pyengine.taps`.
INPUT, OUTPUT, STREAM = "input", "output", "stream"
SCORES, PATTERN = "scores", "pattern"
SCALE, NORMALIZED = "scale", "normalized"


@dataclass(frozen=True)
class Site:
    """A named tensor of the forward pass.

    Attributes:
        name: canonical name.
        module: path of the module that it goes into or comes out of, from the body, or, of a site
            of the output head, from the whole model.
        tap: `input` or `output` of the module; `stream`: an input that the block goes on adding to;
            `scores`, `pattern`: what goes into and comes out of an attention's softmax; `scale`,
            `normalized`: of a norm.
        stack: `encoder`, `decoder`, or `head`.
        layer: index of the layer through all stacks, None outside the blocks.
        shape: `BTD` [B, T, n]; `BTHD` [B, T, n_heads, d_head]; `BHTS` [B, n_heads, T, S]; `TSH`
            [T, S, n_heads], relative position bias; `BT1` [B, T, 1].
        heads: n_heads where the last dimension of the module's own tensor holds all heads.
        part: (i, n) where the site is the i-th of n equal parts of the module's last dimension.
    """

    name: str
    module: str
    tap: str
    stack: str
    layer: int | None = None
    shape: str = "BTD"
    heads: int = 0
    part: tuple[int, int] = (0, 1)

    @property
    def in_head(self) -> bool:
        return self.stack == "head"

    @property
    def positions(self) -> str:
        """The stack whose positions it has: keys and values of a cross-attention the encoder's."""
        crossing = self.name.endswith((".cross_attn.hook_k", ".cross_attn.hook_v"))
        return "encoder" if crossing else self.stack

    @property
    def needs_eager(self) -> bool:
        """Whether only eager attention computes it as a tensor of its own."""
        return self.tap in (SCORES, PATTERN)


def sites_of(model: Model) -> dict[str, Site]:
    """List every site of a model by its canonical name, in the order of the forward pass."""
    return {site.name: site for site in _sites(model)}


def block_prefix(model: Model, layer: Layer) -> str:
    """Return what the names of a layer's sites begin with: `blocks.3`, `decoder_blocks.0`, ..."""
    stack = f"{layer.stack.name}_" if model.family.encoder_decoder else ""
    return f"{stack}blocks.{layer.block}"


def coefficient_site(model: Model, layer: int, value: str = "post") -> Site:
    """Return the site of a layer's coefficients: `post`, or `pre`, before the non-linearity."""
    prefix = block_prefix(model, model.layers[layer])
    sites = {site.name: site for site in _ffn_sites(model, model.layers[layer])}
    return sites[f"{prefix}.mlp.hook_{value}"]


def _sites(model: Model) -> Iterator[Site]:
    for stack in dict.fromkeys(layer.stack for layer in model.layers):
        yield from _embedding_sites(model, stack)
        for layer in model.layers:
            if layer.stack == stack:
                yield from _block_sites(model, layer)
        if stack.final_norm:
            prefix = f"{stack.name}_" if model.family.encoder_decoder else ""
            yield from _norm_sites(f"{prefix}ln_final", stack.final_norm, stack.name)
    yield from _head_sites(model)


def _embedding_sites(model: Model, stack: Stack) -> Iterator[Site]:
    family, decoder = model.family, model.family.encoder_decoder and stack.causal
    embed, positions = "hook_embed", "hook_pos_embed"
    if decoder:
        embed, positions = "decoder_embed.hook_out", "decoder_pos_embed.hook_out"
    yield Site(embed, stack.embedding, OUTPUT, stack.name)
    if family.token_types:
        yield Site("token_type_embed.hook_out", family.token_types, OUTPUT, stack.name)
    shape = "TSH" if stack.relative else "BTD"
    yield Site(positions, stack.positions, OUTPUT, stack.name, shape=shape)
    if family.embedding_norm:
        yield from _norm_sites("embed_ln", family.embedding_norm, stack.name)


def _block_sites(model: Model, layer: Layer) -> Iterator[Site]:
    stack, prefix = layer.stack, block_prefix(model, layer)

    def site(name: str, part: str, tap: str) -> Site:
        path = part.format(layer.block)
        return Site(f"{prefix}.{name}", path, tap, stack.name, layer.index)

    def norm(number: int) -> Iterator[Site]:
        path = stack.norms[number].format(layer.block)
        yield from _norm_sites(f"{prefix}.ln{number + 1}", path, stack.name, layer.index)

    after_addition = stack.final_norm is None  # BERT
    yield site("hook_resid_pre", f"{stack.blocks}.{{}}", INPUT)
    for number in range(len(stack.attention)):
        if not after_addition:
            yield from norm(number)
        yield from _attention_sites(model, layer, number)
        tap = STREAM if stack.rebranches else INPUT
        yield site(("hook_resid_mid", "hook_resid_mid_cross")[number], stack.between[number], tap)
    if after_addition:
        yield from norm(0)
        yield site("hook_normalized_resid_mid", stack.norms[0], OUTPUT)
    else:
        yield from norm(len(stack.attention))
    yield from _ffn_sites(model, layer)
    if after_addition:
        yield site("hook_resid_post", stack.norms[-1], INPUT)
        yield from norm(1)
        yield site("hook_normalized_resid_post", stack.norms[-1], OUTPUT)
    else:
        yield site("hook_resid_post", f"{stack.blocks}.{{}}", OUTPUT)


def _attention_sites(model: Model, layer: Layer, number: int) -> Iterator[Site]:
    stack, block = layer.stack, block_prefix(model, layer)
    cross = number > 0
    prefix = f"{block}.{'cross_attn' if cross else attention_name(model, layer)}"
    out = stack.attention[number].format(layer.block)
    heads = int(model.config.num_attention_heads)
    paths = [path.format(layer.block) for path in stack.projections[number]]
    whole = paths[0].rpartition(".")[0]  # queries are computed inside the attention module

    def site(name: str, module: str, tap: str, **how: object) -> Site:
        return Site(f"{prefix}.{name}", module, tap, stack.name, layer.index, **how)  # type: ignore[arg-type]

    for i, name in enumerate("qkv"):
        module, part = (paths[i], (0, 1)) if len(paths) == 3 else (paths[0], (i, 3))
        yield site(f"hook_{name}", module, OUTPUT, shape="BTHD", heads=heads, part=part)
    yield site("hook_attn_scores", whole, SCORES, shape="BHTS")
    yield site("hook_pattern", whole, PATTERN, shape="BHTS")
    yield site("hook_z", out, INPUT, shape="BTHD", heads=heads)
    name = "hook_cross_attn_out" if cross else "hook_attn_out"
    yield Site(f"{block}.{name}", out, OUTPUT, stack.name, layer.index)


def attention_name(model: Model, layer: Layer) -> str:
    """Return what a layer's self-attention is called: `attn`, in T5's decoder `self_attn`."""
    return "self_attn" if model.family.encoder_decoder and layer.stack.causal else "attn"


def _ffn_sites(model: Model, layer: Layer) -> Iterator[Site]:
    stack, prefix = layer.stack, block_prefix(model, layer)
    value = stack.value.format(layer.block)
    key = next(path for path in stack.key if _has(model.body, path.format(layer.block)))
    rows = [("mlp.hook_pre", key.format(layer.block), OUTPUT)]
    if stack.up and layer.up(model.body) is not None:
        rows.append(("mlp.hook_pre_linear", stack.up.format(layer.block), OUTPUT))
    rows += [("mlp.hook_post", value, INPUT), ("hook_mlp_out", value, OUTPUT)]
    for name, module, tap in rows:
        yield Site(f"{prefix}.{name}", module, tap, stack.name, layer.index)


def _head_sites(model: Model) -> Iterator[Site]:
    family = model.family
    if not _has(model.hf, family.unembedding):
        return
    if family.head_transform:
        dense = f"{family.head_transform}.dense"
        yield Site("mlm_head.hook_in", dense, INPUT, "head")
        yield Site("mlm_head.hook_out", dense, OUTPUT, "head")
        yield from _norm_sites("ln_final", f"{family.head_transform}.LayerNorm", "head")
    yield Site("unembed.hook_in", family.unembedding, INPUT, "head")
    yield Site("unembed.hook_out", family.unembedding, OUTPUT, "head")


def _norm_sites(name: str, module: str, stack: str, layer: int | None = None) -> Iterator[Site]:
    yield Site(f"{name}.hook_scale", module, SCALE, stack, layer, shape="BT1")
    yield Site(f"{name}.hook_normalized", module, NORMALIZED, stack, layer)
    yield Site(f"{name}.hook_out", module, OUTPUT, stack, layer)


def _has(root: nn.Module, path: str) -> bool:
    try:
        root.get_submodule(path)
    except AttributeError:
        return False
    return True

"""How sites are asked for: canonical names, other tools' spellings, module paths, patterns."""

import difflib
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.sites import INPUT, OUTPUT, STREAM, Site, block_prefix, sites_of

Names = str | Iterable[str] | Callable[[str], bool] | None

# Other spellings, as they are found in TransformerLens: of the stacks, then within them. The first
# rows are TransformerLens 3's, the others aliases that TransformerLens 4 lists beside a name.
_DIALECT = tuple(
    (re.compile(pattern), canonical)
    for pattern, canonical in (
        (r"^encoder\.(\d+|\*)\.", r"encoder_blocks.\1."),
        (r"^decoder\.(\d+|\*)\.", r"decoder_blocks.\1."),
        (r"^(en|de)coder_final_ln\.", r"\1coder_ln_final."),
        (r"^(decoder_blocks\.[^.]+)\.attn\.", r"\1.self_attn."),
        (r"\.hook_resid_mid2$", ".hook_resid_mid_cross"),
        (r"^encoder_blocks\.0\.attn\.rel_pos_hook$", "hook_pos_embed"),
        (r"^decoder_blocks\.0\.self_attn\.rel_pos_hook$", "decoder_pos_embed.hook_out"),
        (r"^(embed\.)?hook_token_type_embed$", "token_type_embed.hook_out"),
        (r"^hook_unembed$", "unembed.hook_out"),
        (r"^(embed|pos_embed)\.hook_out$", r"hook_\1"),
        (r"\.(\w*attn)\.([qkv])\.hook_out$", r".\1.hook_\2"),
        (r"\.(\w*attn)\.o\.hook_in$", r".\1.hook_z"),
        (r"\.cross_attn\.(o\.)?hook_out$", ".hook_cross_attn_out"),
        (r"\.(self_)?attn\.(o\.)?hook_out$", ".hook_attn_out"),
        (r"\.mlp\.out\.hook_in$", ".mlp.hook_post"),
        (r"\.mlp\.(out\.)?hook_out$", ".hook_mlp_out"),
        (r"\.mlp\.gate\.hook_out$", ".mlp.hook_pre"),
    )
)


def resolve(model: Model, names: Names) -> list[Site]:
    """Find the sites that are asked for.

    Args:
        model: the model.
        names: None (all that there are), a name, several, or a function that says of a canonical
            name whether it is wanted. A name is canonical, or as TransformerLens 3 spells it, or
            the path of a Hugging Face module (its output; of a down-projection its *input*, the
            coefficients; `.input` and `.output` say which), or a pattern with `*`, `?`, `[…]`.

    Returns:
        Each site once, in the order of the forward pass.

    Raises:
        PyengineError: for a name that the model does not have, with the nearest it has; for one
            that its attention implementation does not compute, with what to do.
    """
    sites = sites_of(model)
    here = {name: site for name, site in sites.items() if _computed(model, site)}
    if names is None:
        return list(here.values())
    if callable(names):
        wanted = {name for name in here if names(name)}
        if not wanted:
            raise PyengineError("the filter function takes none of the model's sites")
    else:
        if not isinstance(names, str | Iterable):
            raise PyengineError(f"names are texts, a list of them, or a function, not {names!r}")
        listed = [names] if isinstance(names, str) else list(names)
        wanted = {site.name for name in listed for site in _named(model, name, sites, here)}
    return [site for name, site in sites.items() if name in wanted]


def canonical(model: Model, name: str) -> str:
    """Return the canonical name of one site.

    Raises:
        PyengineError: if there is no such site, or if `name` is a pattern.
    """
    sites = sites_of(model)
    found = _named(model, name, sites, sites)
    if len(found) != 1:
        raise PyengineError(f"{name!r} stands for {len(found)} sites; name one")
    return found[0].name


def _named(model: Model, name: str, sites: dict[str, Site], here: dict[str, Site]) -> list[Site]:
    if not isinstance(name, str):
        raise PyengineError(f"a site's name is a text, not {name!r}")
    spelled = _translated(name, sites)
    if spelled in sites:
        if spelled not in here:
            raise _not_computed(model, spelled)
        return [sites[spelled]]
    if (at_module := _at_module(model, name, sites)) is not None:
        return [at_module]
    if found := [site for known, site in here.items() if fnmatchcase(known, spelled)]:
        return found
    if hidden := [known for known in sites if fnmatchcase(known, spelled)]:
        raise _not_computed(model, hidden[0])
    raise _unknown(model, name, spelled, sites)


def _translated(name: str, sites: dict[str, Site]) -> str:
    if name in sites:
        return name
    for pattern, replacement in _DIALECT:
        name = pattern.sub(replacement, name)
    if name.endswith(".mlp.in.hook_out"):  # of a gated FFN, the matrix beside the gate
        block = name.removesuffix(".in.hook_out")
        linear = f"{block}.hook_pre_linear"
        name = linear if linear in sites else f"{block}.hook_pre"
    return name


def _at_module(model: Model, name: str, sites: dict[str, Site]) -> Site | None:
    """Find the site at a Hugging Face module, as `transformer.h.0.mlp.act` or nnsight writes it."""
    path = re.sub(r"\[(\d+)\]", r".\1", name).removeprefix("model.")
    at = _modules(model, sites)
    path = path.removeprefix(_body_prefix(model))
    stem, _, side = path.rpartition(".")
    if side in ("input", "output"):
        return at.get((stem, side))
    values = [layer.stack.value.format(layer.block) for layer in model.layers]
    return at.get((path, "input" if path in values else "output"))


def _modules(model: Model, sites: dict[str, Site]) -> dict[tuple[str, str], Site]:
    """Map (path from the body, `input` or `output`) to the site that lies there."""
    at: dict[tuple[str, str], Site] = {}
    for site in sites.values():
        if site.tap in (INPUT, OUTPUT, STREAM) and site.part == (0, 1):
            at.setdefault((site.module, "output" if site.tap == OUTPUT else "input"), site)
    for layer in model.layers:
        stack = layer.stack
        post, out = (
            sites[f"{block_prefix(model, layer)}.{name}"]
            for name in ("mlp.hook_post", "hook_mlp_out")
        )
        if layer.up(model.body) is None:
            activation = stack.activation.format(layer.block)
            for path in (activation, activation.removesuffix(".intermediate_act_fn")):
                at[path, "output"] = post
        block = f"{stack.blocks}.{layer.block}"
        if (ffn := stack.ffn.format(layer.block)) != block:
            at.setdefault((ffn, "output"), out)
        last = sites.get(f"{block_prefix(model, layer)}.hook_normalized_resid_post")
        if last is not None:  # BERT's block ends in its norm
            at[block, "output"] = last
    return at


def _body_prefix(model: Model) -> str:
    """Return what the body's paths begin with in the whole model, `transformer.` for instance."""
    prefix = next(name for name, module in model.hf.named_modules() if module is model.body)
    return f"{prefix}." if prefix else ""


def _computed(model: Model, site: Site) -> bool:
    return not site.needs_eager or model.config._attn_implementation == "eager"


def _not_computed(model: Model, name: str) -> PyengineError:
    return PyengineError(
        f"{name}: attention implementation {model.config._attn_implementation!r} has no attention "
        "probabilities; load the model with attn_implementation='eager' (--attention eager)"
    )


def _unknown(model: Model, name: str, spelled: str, sites: dict[str, Site]) -> PyengineError:
    close = difflib.get_close_matches(spelled, sites, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"some are {', '.join([*sites][:3])}"
    return PyengineError(f"{model.name} has no site {name!r}; {hint}")

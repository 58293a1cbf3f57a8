"""Sites in every spelling: one canonical name comes out."""

from typing import Any

import pytest
import torch
from brute_force import apart
from tiny_models import FAMILIES, tiny_model
from torch import Tensor

import pyengine
from pyengine.errors import PyengineError
from pyengine.site_names import canonical, resolve
from pyengine.sites import sites_of

SPELLINGS = [
    ("gpt2", "blocks.1.mlp.hook_post", "blocks.1.mlp.hook_post"),
    ("gpt2", "blocks.1.mlp.out.hook_in", "blocks.1.mlp.hook_post"),
    ("gpt2", "blocks.1.mlp.in.hook_out", "blocks.1.mlp.hook_pre"),
    ("gpt2", "transformer.h.1.mlp.act", "blocks.1.mlp.hook_post"),
    ("gpt2", "transformer.h.1.mlp.c_proj", "blocks.1.mlp.hook_post"),
    ("gpt2", "transformer.h.1.mlp.c_proj.output", "blocks.1.hook_mlp_out"),
    ("gpt2", "transformer.h.1.mlp", "blocks.1.hook_mlp_out"),
    ("gpt2", "h.1.mlp.c_fc", "blocks.1.mlp.hook_pre"),
    ("gpt2", "model.transformer.h[1].mlp.act.output", "blocks.1.mlp.hook_post"),
    ("gpt2", "transformer.h.1", "blocks.1.hook_resid_post"),
    ("gpt2", "transformer.h.1.input", "blocks.1.hook_resid_pre"),
    ("gpt2", "transformer.h.1.attn.c_proj.input", "blocks.1.attn.hook_z"),
    ("gpt2", "transformer.ln_f", "ln_final.hook_out"),
    ("gpt2", "lm_head", "unembed.hook_out"),
    ("gpt2", "hook_unembed", "unembed.hook_out"),
    ("gpt2", "embed.hook_out", "hook_embed"),
    ("gpt2", "pos_embed.hook_out", "hook_pos_embed"),
    ("gpt_neo", "transformer.h.0.attn.attention.q_proj", "blocks.0.attn.hook_q"),
    ("gpt_neo", "blocks.0.attn.k.hook_out", "blocks.0.attn.hook_k"),
    ("bert", "bert.encoder.layer.2.intermediate", "blocks.2.mlp.hook_post"),
    ("bert", "bert.encoder.layer.2.output.dense", "blocks.2.mlp.hook_post"),
    ("bert", "blocks.2.attn.o.hook_in", "blocks.2.attn.hook_z"),
    ("bert", "embed.hook_token_type_embed", "token_type_embed.hook_out"),
    ("bert", "cls.predictions.transform.dense.input", "mlm_head.hook_in"),
    ("t5", "encoder.1.mlp.hook_post", "encoder_blocks.1.mlp.hook_post"),
    ("t5", "decoder.2.attn.hook_q", "decoder_blocks.2.self_attn.hook_q"),
    ("t5", "decoder_blocks.2.attn.hook_z", "decoder_blocks.2.self_attn.hook_z"),
    ("t5", "decoder_blocks.2.hook_resid_mid2", "decoder_blocks.2.hook_resid_mid_cross"),
    ("t5", "decoder.2.cross_attn.o.hook_in", "decoder_blocks.2.cross_attn.hook_z"),
    ("t5", "decoder.2.cross_attn.hook_out", "decoder_blocks.2.hook_cross_attn_out"),
    ("t5", "encoder.block.1.layer.1.DenseReluDense.wo", "encoder_blocks.1.mlp.hook_post"),
    ("t5", "decoder.block.2.layer.2.DenseReluDense.wo", "decoder_blocks.2.mlp.hook_post"),
    ("t5", "encoder.0.attn.rel_pos_hook", "hook_pos_embed"),
    ("t5", "encoder_final_ln.hook_out", "encoder_ln_final.hook_out"),
    ("t5_gated", "encoder_blocks.1.mlp.gate.hook_out", "encoder_blocks.1.mlp.hook_pre"),
    ("t5_gated", "encoder_blocks.1.mlp.in.hook_out", "encoder_blocks.1.mlp.hook_pre_linear"),
]


@pytest.mark.parametrize(("family", "name", "expected"), SPELLINGS)
def test_one_canonical_name_comes_out(family: str, name: str, expected: str) -> None:
    model = pyengine.load(tiny_model(family))
    assert canonical(model, name) == expected
    assert [site.name for site in resolve(model, name)] == [expected]


def first(value: Any) -> Tensor | None:
    value = value[0] if isinstance(value, tuple | list) and value else value
    return value if isinstance(value, Tensor) else None


@pytest.mark.parametrize("family", FAMILIES)
def test_no_module_path_stands_for_another_tensor(family: str) -> None:
    """Whatever a path resolves to is what a plain hook on that module sees."""
    hf = apart(tiny_model(family))
    hf.set_attn_implementation("eager")
    model = pyengine.load(hf)
    torch.manual_seed(0)
    kwargs: dict[str, Tensor] = {"input_ids": torch.randint(4, 90, (2, 7))}
    if family.startswith("t5"):
        kwargs["decoder_input_ids"] = torch.randint(4, 90, (2, 5))
    _, cache = pyengine.run_with_cache(model, kwargs)
    seen: dict[str, Tensor | None] = {}
    hooks = []
    for path, module in hf.named_modules():

        def keep(_m: Any, inputs: Any, out: Any, path: str = path) -> None:
            seen[f"{path}.input"], seen[f"{path}.output"] = first(inputs), first(out)

        hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        hf(**kwargs)
    for hook in hooks:
        hook.remove()
    values = {layer.stack.value.format(layer.block) for layer in model.layers}
    found = 0
    for path, _ in hf.named_modules():
        for spelled in (path, f"{path}.input", f"{path}.output"):
            try:
                value = cache[spelled]
            except KeyError:
                continue
            at = spelled
            if spelled == path:  # of a down-projection what it reads, of others what they return
                at = f"{path}.input" if path.endswith(tuple(values)) else f"{path}.output"
            tensor = seen[at]
            assert tensor is not None and torch.equal(value.reshape(tensor.shape), tensor), spelled
            found += 1
    assert found > 20 * model.n_layers


def test_patterns_lists_and_functions_come_in_the_order_of_the_pass() -> None:
    model = pyengine.load(tiny_model("gpt2"))
    posts = [f"blocks.{i}.mlp.hook_post" for i in range(3)]
    assert [s.name for s in resolve(model, "blocks.*.mlp.hook_post")] == posts
    assert [s.name for s in resolve(model, posts[::-1])] == posts
    assert [s.name for s in resolve(model, lambda name: name.endswith("hook_post"))] == posts
    twice = ["blocks.0.mlp.hook_post", "transformer.h.0.mlp.act", "blocks.[01].mlp.hook_post"]
    assert [s.name for s in resolve(model, twice)] == posts[:2]
    assert resolve(model, []) == []


def test_patterns_of_a_dialect() -> None:
    model = pyengine.load(tiny_model("t5"))
    found = [site.name for site in resolve(model, "encoder.*.mlp.hook_post")]
    assert found == [f"encoder_blocks.{i}.mlp.hook_post" for i in range(2)]


def test_none_takes_all_that_the_pass_computes() -> None:
    hf = tiny_model("gpt2")
    hf.set_attn_implementation("eager")
    assert [s.name for s in resolve(pyengine.load(hf), None)] == [*sites_of(pyengine.load(hf))]
    hf.set_attn_implementation("sdpa")
    model = pyengine.load(hf)
    missing = set(sites_of(model)) - {site.name for site in resolve(model, None)}
    assert missing == {f"blocks.{i}.attn.hook_{n}" for i in range(3) for n in NOT_IN_SDPA}


NOT_IN_SDPA = ("attn_scores", "pattern")


@pytest.mark.parametrize("name", ["blocks.1.attn.hook_pattern", "blocks.*.attn.hook_attn_scores"])
def test_sdpa_has_no_patterns_and_says_what_to_do(name: str) -> None:
    hf = tiny_model("gpt2")
    hf.set_attn_implementation("sdpa")
    with pytest.raises(PyengineError, match=r"'sdpa' .* attn_implementation='eager'"):
        resolve(pyengine.load(hf), name)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("gpt2", "blocks.1.mlp.hok_post", r"no site .* did you mean .*blocks.1.mlp.hook_post"),
        ("gpt2", "blocks.7.mlp.hook_post", r"no site 'blocks.7.mlp.hook_post'; did you mean"),
        ("gpt2", "transformer.h.0.attn.c_attn", "no site"),
        ("gpt2", "blocks.0.mlp.hook_pre_linear", "no site"),
        ("gpt2", "nonsense", "some are hook_embed"),
        ("t5", "blocks.0.mlp.hook_post", "did you mean .*encoder_blocks.0.mlp.hook_post"),
        ("gpt2", "x.*", "no site"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(family: str, name: str, message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        resolve(pyengine.load(tiny_model(family)), name)


def test_what_is_no_name_is_refused() -> None:
    model = pyengine.load(tiny_model("gpt2"))
    with pytest.raises(PyengineError, match="a site's name is a text, not 3"):
        resolve(model, [3])  # type: ignore[list-item]
    with pytest.raises(PyengineError, match="takes none of the model's sites"):
        resolve(model, lambda name: False)
    with pytest.raises(PyengineError, match="stands for 3 sites; name one"):
        canonical(model, "blocks.*.mlp.hook_post")

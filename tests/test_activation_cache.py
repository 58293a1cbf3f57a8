"""ActivationCache: a mapping, stacked over layers, seen head by head."""

import pytest
import torch
from tiny_models import tiny_model

import pyengine
from pyengine.errors import PyengineError


def run(family: str, names: object = None, **options: object) -> pyengine.ActivationCache:
    hf = tiny_model(family)
    hf.set_attn_implementation("eager")
    torch.manual_seed(2)
    ids = torch.randint(4, 90, (2, 6))
    return pyengine.run_with_cache(hf, ids, names, return_type=None, **options)[1]  # type: ignore[arg-type]


def test_it_is_a_mapping_in_the_order_of_the_pass() -> None:
    cache = run("gpt2", ["blocks.2.mlp.hook_post", "hook_embed", "blocks.0.hook_resid_mid"])
    assert [*cache] == ["hook_embed", "blocks.0.hook_resid_mid", "blocks.2.mlp.hook_post"]
    assert dict(cache.items()).keys() == cache.keys() and len(cache) == 3
    assert "transformer.h.2.mlp.act" in cache and "blocks.1.mlp.hook_post" not in cache
    assert cache["transformer.h.2.mlp.act"] is cache["blocks.2.mlp.hook_post"]
    assert 3 not in cache and [] not in cache
    assert cache.get("blocks.1.mlp.hook_post") is None
    with pytest.raises(KeyError, match=r"is not in the cache, which holds hook_embed, blocks\.0"):
        cache["blocks.1.mlp.hook_post"]
    with pytest.raises(KeyError, match="nonsense"):
        cache["nonsense"]
    assert repr(cache).startswith("ActivationCache(3 sites, 0.0 MB: hook_embed, ")
    assert repr(run("gpt2", [])) == "ActivationCache(0 sites, 0.0 MB: nothing)"


def test_to_changes_every_value() -> None:
    cache = run("gpt2", "blocks.*.mlp.hook_post")
    halved = cache.to(torch.bfloat16)
    assert {value.dtype for value in halved.values()} == {torch.bfloat16}
    assert halved.nbytes * 2 == cache.nbytes
    assert cache["blocks.0.mlp.hook_post"].dtype == torch.float32
    assert run("gpt2", "hook_embed", device="meta")["hook_embed"].device.type == "meta"


@pytest.mark.parametrize(
    ("positions", "kept"), [(-1, [5]), (2, [2]), (slice(1, 4), [1, 2, 3]), ([0, -2], [0, 4])]
)
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_positions_are_kept_as_asked(family: str, positions: object, kept: list[int]) -> None:
    whole, part = run(family), run(family, pos_slice=positions)
    for name, value in whole.items():
        if family == "t5" and name.startswith(("decoder", "unembed")):
            continue  # T5's decoder is a position longer
        dim = 2 if name.endswith(("scores", "pattern")) else 1
        dim = 0 if family == "t5" and name == "hook_pos_embed" else dim
        index = torch.tensor(kept)
        assert torch.equal(part[name], value.index_select(dim, index)), name


def test_a_position_out_of_range_is_refused() -> None:
    with pytest.raises(PyengineError, match="hook_embed has 6 positions; 6 is not one of them"):
        run("gpt2", pos_slice=6)


@pytest.mark.parametrize("positions", [1.5, "a", [0.5], torch.tensor(1.0)])
def test_what_is_no_position_is_refused(positions: object) -> None:
    with pytest.raises(PyengineError, match="pos_slice is a position, a slice, or a list"):
        run("gpt2", pos_slice=positions)


@pytest.mark.parametrize("positions", [-1, [-1], slice(-2, None)])
def test_the_last_column_is_no_token_of_shorter_rows(positions: object) -> None:
    rows = [[5, 6, 7, 8], [9, 10]]
    with pytest.raises(PyengineError, match="padding='left'"):
        pyengine.run_with_cache(tiny_model("gpt2"), rows, pos_slice=positions)  # type: ignore[arg-type]
    _, cache = pyengine.run_with_cache(
        tiny_model("gpt2"), rows, "hook_embed", pos_slice=-1, padding="left"
    )
    assert torch.equal(cache["hook_embed"][1], cache.model.body.wte(torch.tensor([10])))  # type: ignore[operator]


def test_a_device_that_is_not_there_is_refused() -> None:
    for device in ("nope", "cuda:99"):
        with pytest.raises(PyengineError, match=f"device '{device}' cannot be used"):
            run("gpt2", device=device)


def test_values_hold_no_more_memory_than_they_need() -> None:
    for value in run("gpt2", pos_slice=0).values():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    queries = run("gpt2", "blocks.0.attn.hook_q")["blocks.0.attn.hook_q"]
    assert queries.untyped_storage().nbytes() == queries.numel() * 4


def test_stacking_over_layers() -> None:
    cache = run("gpt2")
    posts = cache.stack("mlp.hook_post")
    assert posts.shape == (3, 2, 6, 37)
    assert torch.equal(posts[1], cache["blocks.1.mlp.hook_post"])
    assert cache.stack("attn.hook_z").shape == (3, 2, 6, 4, 5)
    with pytest.raises(PyengineError, match=r"'mlp.hook_nope' is held for no layer"):
        cache.stack("mlp.hook_nope")


def test_stacking_t5_names_its_stack() -> None:
    cache = run("t5")
    assert cache.stack("mlp.hook_post", "encoder").shape == (2, 2, 6, 37)
    assert cache.stack("attn.hook_z", "decoder").shape == (3, 2, 7, 3, 6)
    assert cache.stack("cross_attn.hook_z").shape == (3, 2, 7, 3, 6)
    with pytest.raises(PyengineError, match="held for both stacks; say stack='encoder' or"):
        cache.stack("mlp.hook_post")


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "bert", "t5"])
def test_heads_add_up_to_the_attention(family: str) -> None:
    cache = run(family)
    block = "encoder_blocks.1" if family == "t5" else "blocks.1"
    z = cache[f"{block}.attn.hook_z"]
    assert torch.equal(cache.by_head(f"{block}.attn.hook_z")[1], z[:, :, 1])
    pattern = cache[f"{block}.attn.hook_pattern"]
    assert torch.equal(cache.by_head(f"{block}.attn.hook_pattern")[1], pattern[:, 1])
    results = cache.head_results(f"{block}.attn.hook_z")
    layer = cache.model.layers[1]
    out = layer.module(cache.model.body, layer.stack.attention[0])
    bias = getattr(out, "bias", None)
    total = results.sum(0) if bias is None else results.sum(0) + bias
    assert torch.allclose(total, cache[f"{block}.hook_attn_out"], atol=1e-5)
    with pytest.raises(PyengineError, match="has no heads"):
        cache.by_head("hook_embed")
    with pytest.raises(PyengineError, match="head_results takes a hook_z"):
        cache.head_results("hook_embed")

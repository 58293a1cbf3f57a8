"""run_with_cache, run_with_hooks and generate: what is asked for, and no more."""

from typing import Any

import pytest
import torch
from hooked_cases import SMALL, eager, families, inputs, prefix
from tiny_models import tiny_model, word_tokenizer
from torch import Tensor

import pyengine
from pyengine.errors import PyengineError
from pyengine.sites import Site


@families
def test_every_site_can_be_read_and_edited(family: str) -> None:
    model, kwargs = eager(family, **SMALL[family]), inputs(family)
    with torch.no_grad():
        plain = model.hf(**kwargs).logits
    logits, cache = pyengine.run_with_cache(model, kwargs)
    assert torch.equal(logits, plain)
    for name, value in cache.items():
        seen: list[Tensor] = []

        def read(act: Tensor, _site: Site, seen: list[Tensor] = seen) -> None:
            seen.append(act.clone())

        assert torch.equal(pyengine.run_with_hooks(model, kwargs, [(name, read)]), plain), name
        assert len(seen) == 1 and torch.equal(seen[0], value), name
        noise = 0.1 * torch.randn_like(value)

        def add(act: Tensor, _site: Site, noise: Tensor = noise) -> Tensor:
            return act + noise

        edited = pyengine.run_with_hooks(model, kwargs, [(name, add)])
        assert (edited - plain).abs().max() > 1e-4, f"an edit of {name} changes nothing"
        if not name.endswith(("hook_scale", "hook_normalized")):  # there the norm is recomputed
            same = pyengine.run_with_hooks(model, kwargs, [(name, lambda a, _: a.clone())])
            assert torch.equal(same, plain), name


@families
def test_an_edit_is_what_the_next_site_sees(family: str) -> None:
    model, kwargs, block = eager(family), inputs(family), f"{prefix(family)}.1"
    length = kwargs.get("decoder_input_ids", kwargs["input_ids"]).shape[1]
    value = torch.randn(2, length, model.d_ff)
    _, cache = pyengine.run_with_cache(
        model,
        kwargs,
        [f"{block}.mlp.hook_post", f"{block}.hook_mlp_out"],
        fwd_hooks=[(f"{block}.mlp.hook_post", lambda _a, _s: value)],
        return_type=None,
    )
    assert torch.equal(cache[f"{block}.mlp.hook_post"], value)
    layer = next(
        la
        for la in model.layers
        if la.block == 1 and la.stack.causal == (family not in ("bert", "electra"))
    )
    down: Any = layer.module(model.body, layer.stack.value)
    assert torch.equal(cache[f"{block}.hook_mlp_out"], down(value))


def test_hooks_on_one_site_run_in_order_and_get_their_site() -> None:
    model, kwargs = eager("gpt2"), inputs("gpt2")
    for name in ("blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores", "hook_embed"):
        seen: list[Any] = []

        def double(act: Tensor, site: Site, seen: list[Any] = seen) -> Tensor:
            seen.append((site.name, site.layer))
            return act * 2

        def look(act: Tensor, _site: Site, seen: list[Any] = seen) -> None:
            seen.append(act.clone())

        _, cache = pyengine.run_with_cache(model, kwargs, name)
        pyengine.run_with_hooks(model, kwargs, [(name, double), (name, look)])
        assert seen[0] == (name, None if name == "hook_embed" else 1)
        assert torch.equal(seen[1], cache[name] * 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda act, site: act[:1], r"returned torch.float32 \(1, 7, 37\) on cpu, not"),
        (lambda act, site: act.double(), "returned torch.float64"),
        (lambda act, site: 3, "returned int, not a tensor"),
    ],
)
def test_what_a_hook_returns_is_checked(bad: Any, message: str) -> None:
    model = eager("gpt2")
    with pytest.raises(PyengineError, match=f"a hook on blocks.0.mlp.hook_post {message}"):
        pyengine.run_with_hooks(model, inputs("gpt2"), [("blocks.0.mlp.hook_post", bad)])


def test_gradients_flow_to_what_a_hook_puts_in() -> None:
    model, kwargs = eager("gpt2"), inputs("gpt2")
    _, cache = pyengine.run_with_cache(model, kwargs, "blocks.1.hook_resid_mid")
    value = cache["blocks.1.hook_resid_mid"].clone().requires_grad_()
    logits = pyengine.run_with_hooks(
        model, kwargs, [("blocks.1.hook_resid_mid", lambda _a, _s: value)]
    )
    logits[0, -1, 3].backward()
    assert value.grad is not None and value.grad[0].abs().max() > 0
    assert all(parameter.grad is None for parameter in model.hf.parameters())


@families
def test_only_what_is_needed_is_run(family: str) -> None:
    """The caller's own hooks are carried along, so they count what runs."""
    model, kwargs = eager(family), inputs(family)
    ran: list[Any] = []
    head = model.hf.get_submodule(model.family.unembedding)
    head.register_forward_hook(lambda *_: ran.append("head"))
    for layer in model.layers:
        block = layer.module(model.body, f"{layer.stack.blocks}.{{}}")
        block.register_forward_hook(lambda *_, i=layer.index: ran.append(i))
    site = f"{prefix(family)}.1.mlp.hook_post"
    pyengine.run_with_cache(model, kwargs, site)
    assert ran == [*range(model.n_layers), "head"]
    ran.clear()
    none, cache = pyengine.run_with_cache(model, kwargs, site, return_type=None)
    stopped = next(la.index for la in model.layers if la.block == 1 and site.startswith(stack(la)))
    assert none is None and [*cache] == [site]
    assert ran == list(range(stopped))  # the last block ends in its middle
    ran.clear()
    assert pyengine.run_with_cache(model, kwargs, [], return_type=None)[0] is None
    assert ran == []


def stack(layer: Any) -> str:
    return (
        "decoder"
        if layer.stack.causal and "decoder" in layer.stack.blocks
        else ("encoder" if "block" in layer.stack.blocks else "blocks")
    )


@families
def test_stop_at_layer_returns_the_residual_stream(family: str) -> None:
    model, kwargs = eager(family), inputs(family)
    for layer in (0, 1, model.n_layers - 1, model.n_layers, -1):
        residual, cache = pyengine.run_with_cache(model, kwargs, stop_at_layer=layer)
        whole = pyengine.run_with_cache(model, kwargs)[1]
        assert all(torch.equal(value, whole[name]) for name, value in cache.items())
        if layer in (1, -1):
            index = layer % model.n_layers
            at = model.layers[index]
            name = f"{at.stack.name}_blocks" if family.startswith("t5") else "blocks"
            assert torch.equal(residual, whole[f"{name}.{at.block}.hook_resid_pre"])
            assert f"{name}.{at.block}.hook_resid_pre" not in cache
    for bad in (99, 1.0, "1"):
        with pytest.raises(PyengineError, match="stop_at_layer must be from"):
            pyengine.run_with_cache(model, kwargs, stop_at_layer=bad)  # type: ignore[arg-type]
    for names in ("*hook_resid_pre", lambda name: name.endswith("hook_resid_pre")):
        _, cache = pyengine.run_with_cache(model, kwargs, names, stop_at_layer=1)
        assert len(cache) == 1
    beyond = f"{prefix(family)}.1.mlp.hook_post"
    with pytest.raises(PyengineError, match=f"{beyond} lies beyond stop_at_layer=1"):
        pyengine.run_with_cache(model, kwargs, beyond, stop_at_layer=1)


def test_loss_and_both_are_hugging_faces() -> None:
    model = eager("gpt2")
    ids = torch.randint(4, 90, (2, 7))
    with torch.no_grad():
        out = model.hf(input_ids=ids, labels=ids)
    loss = pyengine.run_with_cache(model, ids, [], return_type="loss")[0]
    logits, again = pyengine.run_with_cache(model, ids, [], return_type="both")[0]
    assert torch.equal(loss, out.loss) and torch.equal(again, out.loss)
    assert torch.equal(logits, out.logits)
    with pytest.raises(PyengineError, match="unknown return_type 'all'"):
        pyengine.run_with_cache(model, ids, [], return_type="all")


def test_texts_of_a_translation_pair() -> None:
    model = pyengine.load((tiny_model("t5"), word_tokenizer()))
    logits, cache = pyengine.run_with_cache(model, ["w1 w2 w3", "w4"], target=["w5 w6", "w7 w8 w9"])
    assert cache["encoder_blocks.0.hook_resid_pre"].shape[:2] == (2, 3)
    assert logits.shape[:2] == cache["decoder_blocks.0.hook_resid_pre"].shape[:2] == (2, 3)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "t5", "openai-gpt"])
def test_generate_calls_hooks_in_every_step(family: str) -> None:
    overrides = {"num_layers": 3} if family == "t5" else {}
    model = eager(family, **overrides)
    ids = [[5, 6, 7, 8], [9, 10]]
    site, shapes = f"{prefix(family)}.1.mlp.hook_post", []

    def suppress(act: Tensor, _site: Site) -> Tensor:
        shapes.append(act.shape[1])
        return torch.zeros_like(act)

    plain = pyengine.generate(model, ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    padded = torch.tensor([[5, 6, 7, 8], [model.pad_id, model.pad_id, 9, 10]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    hf: Any = model.hf
    expected = hf.generate(padded, attention_mask=mask, pad_token_id=model.pad_id, **options)
    assert torch.equal(plain, expected)
    changed = pyengine.generate(model, ids, fwd_hooks=[(site, suppress)], **options)
    first = 1 if family == "t5" else 4
    # openai-gpt has no cache: it reads all over again.
    assert shapes == ([4, 5, 6, 7, 8] if family == "openai-gpt" else [first, 1, 1, 1, 1])
    assert not torch.equal(changed, plain)
    if family != "t5":  # whose output begins anew
        alone = pyengine.generate(model, ids[1:], **options)
        assert torch.equal(plain[1, 2:], alone[0])


def test_functions_on_one_norm_see_each_others_edits() -> None:
    model, kwargs = eager("gpt2"), inputs("gpt2")

    def zero(act: Tensor, _site: Site) -> Tensor:
        return torch.zeros_like(act)

    def twice(act: Tensor, _site: Site) -> Tensor:
        return act * 2

    def same(act: Tensor, _site: Site) -> Tensor:
        return act.clone()

    hooks = [("ln_final.hook_out", zero), ("ln_final.hook_scale", same)]
    assert pyengine.run_with_hooks(model, kwargs, hooks).abs().max() == 0
    name = "blocks.1.ln2"
    _, before = pyengine.run_with_cache(model, kwargs, f"{name}.*")
    _, after = pyengine.run_with_cache(
        model, kwargs, f"{name}.*", fwd_hooks=[(f"{name}.hook_scale", twice)]
    )
    assert torch.equal(after[f"{name}.hook_scale"], 2 * before[f"{name}.hook_scale"])
    assert torch.equal(after[f"{name}.hook_normalized"], before[f"{name}.hook_normalized"] / 2)
    norm: Any = model.body.get_submodule("h.1.ln_2")
    expected = after[f"{name}.hook_normalized"] * norm.weight + norm.bias
    assert torch.equal(after[f"{name}.hook_out"], expected)
    both = [(f"{name}.hook_scale", twice), (f"{name}.hook_normalized", same)]
    one = pyengine.run_with_hooks(model, kwargs, both[:1])
    assert torch.equal(pyengine.run_with_hooks(model, kwargs, both), one)


@pytest.mark.parametrize("hooks", [[("hook_embed",)], ["hook_embed"], [("hook_embed", 3)]])
def test_hooks_are_pairs(hooks: Any) -> None:
    with pytest.raises(PyengineError, match="fwd_hooks holds pairs"):
        pyengine.run_with_hooks(eager("gpt2"), [[5, 6]], hooks)


def test_what_generate_does_not_read_is_refused() -> None:
    model = eager("gpt2")
    for name in ("labels", "position_ids"):
        with pytest.raises(PyengineError, match=f"generate does not read {name}"):
            pyengine.generate(model, {"input_ids": [[5, 6]], name: [[5, 6]]}, max_new_tokens=2)
    with pytest.raises(PyengineError, match="are 40; GPT2LMHeadModel reads at most 32"):
        pyengine.generate(model, [[5] * 10], max_new_tokens=30)


def test_t5_goes_on_from_a_given_beginning() -> None:
    hf = tiny_model("t5", num_layers=3)
    given = {"input_ids": torch.tensor([[5, 6, 7]]), "decoder_input_ids": torch.tensor([[0, 9, 9]])}
    found = pyengine.generate(hf, given, max_new_tokens=3, do_sample=False)
    assert found[0, :3].tolist() == [0, 9, 9]
    assert torch.equal(found, hf.generate(**given, max_new_tokens=3, do_sample=False))


def test_bert_does_not_generate() -> None:
    with pytest.raises(PyengineError, match="is a bert: it does not generate"):
        pyengine.generate(eager("bert"), [[5, 6]])

"""Hooked passes leave models as they were, and take or refuse whatever state they are in."""

from typing import Any

import pytest
import torch
from hooked_cases import eager, families, inputs, prefix
from tiny_models import tiny_model, word_tokenizer
from torch import Tensor, nn

import pyengine
from pyengine.errors import PyengineError
from pyengine.sites import Site


@families
def test_the_model_stays_as_it_was(family: str) -> None:
    model, kwargs = eager(family), inputs(family)
    model.hf.train()
    before = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in named(model)}

    def fails(_act: Tensor, _site: Site) -> None:
        raise RuntimeError("mine")

    pyengine.run_with_cache(model, kwargs)
    with pytest.raises(RuntimeError, match="mine"):
        pyengine.run_with_hooks(model, kwargs, [(f"{prefix(family)}.1.mlp.hook_post", fails)])
    after = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in named(model)}
    assert before == after
    assert model.hf.training and all(p.requires_grad for p in model.hf.parameters())
    assert model.hf.config._attn_implementation == "eager"


def named(model: pyengine.Model) -> list[tuple[str, nn.Module]]:
    return list(model.hf.named_modules())


def test_a_model_without_head_has_no_logits() -> None:
    body = eager("bert").hf.base_model
    with pytest.raises(PyengineError, match="no output head, hence no logits; return_type=None"):
        pyengine.run_with_cache(body, torch.randint(4, 90, (1, 5)))
    _, cache = pyengine.run_with_cache(body, torch.randint(4, 90, (1, 5)), return_type=None)
    assert "blocks.2.hook_normalized_resid_post" in cache


def test_the_callers_hooks_take_part() -> None:
    model, kwargs = eager("gpt2"), inputs("gpt2")
    model.body.h[0].mlp.act.register_forward_hook(lambda _m, _i, out: out * 0)  # type: ignore[index,union-attr]
    with torch.no_grad():
        plain = model.hf(**kwargs).logits
    logits, cache = pyengine.run_with_cache(model, kwargs, "blocks.0.mlp.hook_post")
    assert torch.equal(logits, plain)
    assert cache["blocks.0.mlp.hook_post"].abs().max() == 0


def test_compiled_models_are_run_uncompiled() -> None:
    hf, kwargs = tiny_model("gpt2"), inputs("gpt2")
    with torch.no_grad():
        plain = hf(**kwargs).logits
    for compiled in (torch.compile(hf), compiled_in_place(hf)):
        logits, cache = pyengine.run_with_cache(compiled, kwargs)
        assert torch.equal(logits, plain) and len(cache) > 50


def compiled_in_place(hf: Any) -> Any:
    hf.compile()
    return hf


def test_a_replaced_forward_is_refused() -> None:
    model = eager("gpt2")
    act: Any = model.body.get_submodule("h.1.mlp.act")
    act.forward = act.forward
    with pytest.raises(
        PyengineError, match=r"the forward pass of transformer.h.1.mlp.act has been"
    ):
        pyengine.run_with_cache(model, inputs("gpt2"))


def test_what_other_tools_have_changed_is_refused() -> None:
    accelerate = pytest.importorskip("accelerate")
    hf = tiny_model("gpt2")
    parts = ("transformer.wte", "transformer.wpe", "transformer.h", "transformer.ln_f", "lm_head")
    accelerate.dispatch_model(hf, dict.fromkeys(parts, "cpu"), force_hooks=True)
    with pytest.raises(PyengineError, match=r"forward pass of \w+ has been replaced .*device map"):
        pyengine.run_with_cache(hf, inputs("gpt2"))
    with pytest.raises(PyengineError, match="expected a Hugging Face model, got DataParallel"):
        pyengine.run_with_cache(nn.DataParallel(tiny_model("gpt2")), inputs("gpt2"))
    offloaded = accelerate.cpu_offload(tiny_model("gpt2"), execution_device="cpu")
    with pytest.raises(PyengineError, match="the model is on device meta"):
        pyengine.run_with_cache(offloaded, inputs("gpt2"))


def test_half_precision_works() -> None:
    hf, kwargs = tiny_model("gpt2").half(), inputs("gpt2")
    with torch.no_grad():
        plain = hf(**kwargs).logits
    logits, cache = pyengine.run_with_cache(hf, kwargs)
    assert torch.equal(logits, plain)
    assert cache["blocks.1.mlp.hook_post"].dtype == torch.float16
    assert cache["blocks.1.ln1.hook_scale"].dtype == torch.float32


def test_an_interrupt_inside_attention_leaves_nothing_behind() -> None:
    model, kwargs = eager("gpt2"), inputs("gpt2")

    def interrupts(_act: Tensor, _site: Site) -> None:
        raise KeyboardInterrupt

    for name in ("blocks.0.attn.hook_pattern", "blocks.0.attn.hook_attn_scores"):
        with pytest.raises(KeyboardInterrupt):
            pyengine.run_with_hooks(model, kwargs, [(name, interrupts)])
        assert torch.softmax(torch.zeros(2), 0).tolist() == [0.5, 0.5]


def test_a_hook_that_is_a_module_stays_the_callers() -> None:
    class Probe(nn.Module):
        seen: tuple[int, ...] = ()

        def forward(self, _module: nn.Module, _inputs: Any, out: Tensor) -> None:
            self.seen = tuple(out.shape)

    model, probe = eager("gpt2"), Probe()
    block: Any = model.body.get_submodule("h.1")
    block.register_forward_hook(probe)
    pyengine.run_with_cache(model, inputs("gpt2"), [])
    assert probe.seen == (2, 7, 20)


def test_embeddings_that_two_stacks_share_are_two_sites() -> None:
    hf = tiny_model("t5")
    hf.resize_token_embeddings(101)
    assert hf.encoder.embed_tokens is hf.decoder.embed_tokens  # so does transformers
    kwargs = inputs("t5")
    names = ["hook_embed", "decoder_embed.hook_out"]
    _, cache = pyengine.run_with_cache(hf, kwargs, names)
    assert torch.equal(cache["hook_embed"], hf.shared(kwargs["input_ids"]))
    assert torch.equal(cache["decoder_embed.hook_out"], hf.shared(kwargs["decoder_input_ids"]))


@families
def test_configurations_without_return_dict(family: str) -> None:
    model, kwargs = eager(family), inputs(family)
    logits, _ = pyengine.run_with_cache(model, kwargs, [])
    model.hf.config.return_dict = False
    assert torch.equal(pyengine.run_with_cache(model, kwargs, [])[0], logits)


def test_interventions_are_seen() -> None:
    model = pyengine.load((tiny_model("gpt2"), word_tokenizer()))
    kn = pyengine.KnowledgeNeurons(model)
    site = "blocks.1.mlp.hook_post"
    _, before = pyengine.run_with_cache(model, "w1 w2 w3", site)
    with kn.suppress([(1, 5)], positions="all"):
        logits, cache = pyengine.run_with_cache(model, "w1 w2 w3", site)
    assert before[site][..., 5].abs().min() > 0 and cache[site][..., 5].abs().max() == 0

    def suppress(act: Tensor, _site: Site) -> Tensor:
        act = act.clone()
        act[..., 5] = 0
        return act

    assert torch.equal(pyengine.run_with_hooks(model, "w1 w2 w3", [(site, suppress)]), logits)

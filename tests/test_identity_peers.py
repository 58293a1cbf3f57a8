"""The same names give the same tensors in TransformerLens 4 and nnsight, where installed."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine.sites import sites_of

pytestmark = pytest.mark.identity

FAMILIES = ("gpt2", "gpt_neo", "bert", "t5", "t5_gated")
# TransformerLens computes the attention of GPT-2 and GPT-Neo in its own code.
TOLERANCE = 2e-5
# Of BERT it shows what follows a norm under the names of what enters it.
BERT_NAMES = {
    "hook_embed": "embed_ln.hook_out",
    ".hook_attn_out": ".hook_normalized_resid_mid",
    ".hook_resid_mid": ".hook_resid_post",
    ".hook_resid_post": ".hook_normalized_resid_post",
}


def inputs(family: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(4, 90, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    kwargs = {"input_ids": ids, "attention_mask": mask}
    if family.startswith("t5"):
        kwargs["decoder_input_ids"] = torch.randint(4, 90, (2, 5))
    return kwargs


def bridge(folder: Path) -> Any:
    os.environ.setdefault("WANDB_MODE", "disabled")
    module = pytest.importorskip("transformer_lens.model_bridge")
    return module.TransformerBridge.boot_transformers(str(folder), device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_transformer_lens(family: str, tmp_path: Path) -> None:
    hf = tiny_model(family)
    hf.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    kwargs = inputs(family)
    mask = kwargs["attention_mask"].bool()
    lens = bridge(tmp_path)
    rest = {name: value for name, value in kwargs.items() if name != "input_ids"}
    if "decoder_input_ids" in rest:
        rest["decoder_input"] = rest.pop("decoder_input_ids")
    logits, cache = lens.run_with_cache(kwargs["input_ids"], **rest)
    model = pyengine.load(str(tmp_path), attn_implementation="eager")
    ours_logits, ours = pyengine.run_with_cache(model, kwargs)

    def close(name: str, a: torch.Tensor, b: torch.Tensor) -> None:
        b = b.expand_as(a) if b.dim() == a.dim() else b  # positions are the same for all rows
        if a.shape[:2] == mask.shape and not name.startswith("decoder"):
            a, b = a[mask], b[mask]
        assert torch.allclose(a, b, rtol=0, atol=TOLERANCE), f"{name}: {(a - b).abs().max()}"

    shared = {name: named_as(family, name) for name in ours if name in cache}
    for theirs, own in shared.items():
        if own is None:
            continue
        if "hook_pattern" in own:  # the first row is not padded
            close(theirs, cache[theirs][:1], ours[own][:1])
        else:
            close(theirs, cache[theirs], ours[own])
    rows = mask if logits.shape[1] == mask.shape[1] else slice(None)
    assert torch.allclose(logits[rows], ours_logits[rows], rtol=0, atol=10 * TOLERANCE)
    assert len(shared) >= 14 * model.n_layers, "TransformerLens must know most of our names"


def named_as(family: str, name: str) -> str | None:
    """Return which of our sites TransformerLens 4.3 shows under a name, None if none of them."""
    if name.endswith("hook_attn_scores"):  # masked otherwise; BERT's are the patterns again
        return None
    if family.startswith("t5") and name.endswith(("hook_scale", "hook_normalized")):
        return None  # it centres T5's norms, which divide by the root mean square
    if family == "bert":
        for theirs, ours in BERT_NAMES.items():
            if name.endswith(theirs) and "normalized" not in name:
                return name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("family", FAMILIES)
def test_nnsight(family: str) -> None:
    nnsight = pytest.importorskip("nnsight")
    hf = tiny_model(family)
    model, kwargs = pyengine.load(hf), inputs(family)
    _, ours = pyengine.run_with_cache(model, kwargs)
    traced = nnsight.NNsight(hf)
    sites = [site for site in sites_of(model).values() if site.name.endswith("mlp.hook_post")]
    with torch.no_grad(), traced.trace(**kwargs):
        saved: Any = nnsight.save([])
        for site in sites:
            saved.append(_envoy(traced, _path(model, site.module)).input)
    assert len(saved) == model.n_layers
    for site, value in zip(sites, saved, strict=True):
        assert torch.equal(value, ours[site.name]), site.name


def _path(model: pyengine.Model, path: str) -> str:
    prefix = next(name for name, module in model.hf.named_modules() if module is model.body)
    return f"{prefix}.{path}" if prefix else path


def _envoy(root: Any, path: str) -> Any:
    for part in path.split("."):
        # nnsight keeps `output` for itself and renames BERT's module of that name.
        name = "E_output" if part == "output" else part
        root = root[int(part)] if part.isdigit() else getattr(root, name)
    return root

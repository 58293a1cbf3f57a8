"""What users of every such tool were silently bitten by, one named test each.

The first lines of a test show the trap in plain Hugging Face where there is one to show.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from site_oracle_cases import positions, untie
from tiny_models import tiny_model
from torch import Tensor
from torch.nn import functional
from trap_cases import TEXTS, alone, block_names, eager, left_padded, plain

import pyengine
from pyengine.errors import PyengineError


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "bert"])
def test_left_padding_needs_positions_made_from_the_mask(family: str) -> None:
    hf, inputs = tiny_model(family), left_padded()
    bare = plain(hf, **inputs).logits
    assert (bare[1, -2:] - alone(hf)[1]).abs().max() > 1
    told = plain(hf, **inputs, position_ids=positions(inputs["attention_mask"])).logits

    of_tensors, _ = pyengine.run_with_cache(hf, inputs, names_filter=[])
    of_lists, cache = pyengine.run_with_cache(hf, TEXTS, padding="left")
    for logits in (of_tensors, of_lists):
        for row, ids in enumerate(TEXTS):
            assert torch.equal(logits[row, -len(ids) :], told[row, -len(ids) :])
            torch.testing.assert_close(
                logits[row, -len(ids) :], alone(hf)[row], rtol=1e-4, atol=1e-4
            )
    table = dict(hf.named_parameters())[POSITIONS[family]]
    torch.testing.assert_close(cache["hook_pos_embed"][1, -2:], table[:2])


POSITIONS = {
    "gpt2": "transformer.wpe.weight",
    "gpt_neo": "transformer.wpe.weight",
    "bert": "bert.embeddings.position_embeddings.weight",
}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_positions_without_a_mask_do_not_cut_the_text(family: str) -> None:
    """Without mask and cache, Hugging Face takes a step back in the positions for a new text."""
    hf = tiny_model(family)
    inputs = {"input_ids": torch.tensor(TEXTS[:1]), "position_ids": torch.arange(7)[None] % 3}
    expected = plain(hf, **inputs).logits
    assert (plain(hf, **inputs, use_cache=False).logits - expected).abs().max() > 1
    logits, _ = pyengine.run_with_cache(hf, inputs, names_filter=[])
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("family", ["t5", "t5_gated"])
def test_t5_keeps_wo_in_float32_under_float16(family: str, tmp_path: Path) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    hf: Any = loaded
    assert hf.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    inputs = {"input_ids": torch.tensor(TEXTS[:1]), "decoder_input_ids": torch.tensor([[0, 3]])}
    seen: list[Tensor] = []
    down = hf.decoder.block[1].layer[2].DenseReluDense.wo
    handle = down.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    expected = plain(hf, **inputs).logits
    handle.remove()

    logits, cache = pyengine.run_with_cache(hf, inputs)
    assert torch.equal(logits, expected)
    assert torch.equal(cache["decoder_blocks.1.mlp.hook_post"], seen[0])
    assert cache["encoder_blocks.0.hook_resid_pre"].dtype == torch.float16
    for stack, n in (("encoder", 2), ("decoder", 3)):
        for block in range(n):
            prefix = f"{stack}_blocks.{block}"
            assert cache[f"{prefix}.mlp.hook_pre"].dtype == torch.float16
            assert cache[f"{prefix}.mlp.hook_post"].dtype == torch.float32
            assert cache[f"{prefix}.hook_mlp_out"].dtype == torch.float32


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "bert", "t5"])
def test_bool_masks_with_eager_attention(family: str) -> None:
    hf, inputs = eager(family), left_padded()
    if family == "t5":
        inputs |= {"decoder_input_ids": inputs["input_ids"]}
    _, of_ints = pyengine.run_with_cache(hf, inputs)
    as_bool = inputs | {"attention_mask": inputs["attention_mask"].bool()}
    _, of_bools = pyengine.run_with_cache(hf, as_bool)
    assert list(of_ints) == list(of_bools)
    for name, value in of_ints.items():
        assert torch.equal(value, of_bools[name]), name


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_bool_masks_of_four_dimensions_are_refused(family: str) -> None:
    """Eager attention adds them to the scores: one more where it may look, else nothing."""
    hf = eager(family)
    ids = torch.tensor([TEXTS[0]])
    visible = torch.ones(1, 1, 7, 7, dtype=torch.bool)
    visible = visible.tril() if family == "gpt2" else visible
    visible[..., 3] = False
    visible[..., 3, 3] = True
    attentions = plain(hf, input_ids=ids, attention_mask=visible, output_attentions=True).attentions
    assert attentions[0][:, :, ~visible[0, 0]].max() > 0.01  # it looks where it must not
    with pytest.raises(PyengineError, match="attention_mask"):
        pyengine.run_with_cache(hf, {"input_ids": ids, "attention_mask": visible})


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "bert", "t5"])
def test_matrices_have_one_orientation(family: str) -> None:
    """GPT-2's are stored [n_in, n_out], the others' [n_out, n_in]; no width equals another here."""
    hf = tiny_model(family)
    model = pyengine.load(hf)
    inputs = {"input_ids": torch.tensor(TEXTS[:1])}
    if family == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[0, 5, 6]])
    _, cache = pyengine.run_with_cache(model, inputs)
    assert model.W_in.shape == (model.n_layers, 20, 37)
    assert model.W_out.shape == (model.n_layers, 37, 20)
    for layer, prefix in enumerate(block_names(family)):
        last = "ln3" if prefix.startswith("decoder") else "ln2"
        x = cache[
            f"{prefix}.hook_normalized_resid_mid"
            if family == "bert"
            else f"{prefix}.{last}.hook_out"
        ]
        pre, post = cache[f"{prefix}.mlp.hook_pre"], cache[f"{prefix}.mlp.hook_post"]
        added = cache[f"{prefix}.hook_mlp_out"]
        b_in, b_out = (0, 0) if family == "t5" else (model.b_in[layer], model.b_out[layer])
        torch.testing.assert_close(pre, x @ model.W_in[layer] + b_in, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(added, post @ model.W_out[layer] + b_out, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.W_out[layer], model.values(layer))


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("own_head", [True, False])
def test_t5_heads_tied_or_not_scaled_or_not(own_head: bool, scaled: bool) -> None:
    """The configuration says whether to scale, not whether the head is the embedding."""
    hf = tiny_model("t5", tie_word_embeddings=scaled)
    if own_head:
        untie(hf)
    assert torch.equal(hf.lm_head.weight, hf.shared.weight) is not own_head
    inputs = {"input_ids": torch.tensor(TEXTS[:1]), "decoder_input_ids": torch.tensor([[0, 5, 6]])}
    names = ["decoder_ln_final.hook_out", "unembed.hook_in", "unembed.hook_out"]
    logits, cache = pyengine.run_with_cache(hf, inputs, names_filter=names)
    normed, read, out = cache.values()
    assert torch.equal(read, normed * 20**-0.5 if scaled else normed)
    assert torch.equal(out, logits)
    assert torch.equal(logits, plain(hf, **inputs).logits)
    torch.testing.assert_close(logits, read @ hf.lm_head.weight.T)
    torch.testing.assert_close(pyengine.load(hf).W_U, hf.lm_head.weight.T)


def test_bert_token_types() -> None:
    hf = tiny_model("bert")
    ids = torch.tensor(TEXTS[:1])
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    table = hf.bert.embeddings.token_type_embeddings.weight
    of_none, cache = pyengine.run_with_cache(hf, {"input_ids": ids})
    assert torch.equal(cache["token_type_embed.hook_out"], table[torch.zeros_like(ids)])
    of_types, cache = pyengine.run_with_cache(hf, {"input_ids": ids, "token_type_ids": types})
    assert torch.equal(cache["token_type_embed.hook_out"], table[types])
    assert torch.equal(of_types, plain(hf, input_ids=ids, token_type_ids=types).logits)
    assert (of_types - of_none).abs().max() > 0.1


def test_bert_in_chunks_is_refused() -> None:
    """Its feed-forward modules see a few positions at a time: a hook would keep the last ones."""
    hf = tiny_model("bert", chunk_size_feed_forward=2)
    with pytest.raises(PyengineError, match="chunk_size_feed_forward"):
        pyengine.run_with_cache(hf, {"input_ids": torch.tensor([[5, 6, 7, 8]])})


def test_bert_for_pretraining_calls_its_logits_differently() -> None:
    hf = transformers.BertForPreTraining(tiny_model("bert").config).eval()
    inputs = {"input_ids": torch.tensor(TEXTS[:1])}
    logits, cache = pyengine.run_with_cache(hf, inputs)
    assert torch.equal(logits, plain(hf, **inputs).prediction_logits)
    assert torch.equal(logits, cache["unembed.hook_out"])


def test_token_types_are_refused_where_there_are_none() -> None:
    """GPT-2 would add the embeddings of the tokens 0 and 1."""
    hf, ids = tiny_model("gpt2"), torch.tensor(TEXTS[:1])
    changed = plain(hf, input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits
    assert (changed - plain(hf, input_ids=ids).logits).abs().max() > 0.1
    with pytest.raises(PyengineError, match="token_type_ids"):
        pyengine.run_with_cache(hf, {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)})


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_gpt_neo_local_attention_ends_at_its_window(padding: str) -> None:
    hf = eager("gpt_neo")  # global, local, global, local; windows of 4 tokens
    rows: Any = TEXTS[:1] if padding == "none" else TEXTS
    side = "right" if padding == "none" else padding
    _, cache = pyengine.run_with_cache(hf, rows, padding=side)
    back = torch.arange(7)[:, None] - torch.arange(7)
    for layer in range(4):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]  # the longest text: no padding
        looks = (back >= 0) & (back < (4 if layer % 2 else 7))
        assert (pattern[:, ~looks] == 0).all()
        assert (pattern[:, looks] > 0).all()
        scores = cache[f"blocks.{layer}.attn.hook_attn_scores"][0]
        assert (scores[:, ~looks] < -1e30).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_the_mask_reaches_the_loss(family: str, side: str) -> None:
    hf = tiny_model(family)
    losses = [
        functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        for logits, ids in zip(alone(hf), TEXTS, strict=True)
    ]
    expected = torch.cat(losses).mean()
    inputs = left_padded()
    bare = plain(hf, **inputs, labels=inputs["input_ids"]).loss
    assert (bare - expected).abs() > 0.01
    loss, _ = pyengine.run_with_cache(hf, TEXTS, padding=side, return_type="loss")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_the_mask_reaches_the_loss_of_t5() -> None:
    hf = tiny_model("t5")
    targets = [[7, 8, 9, 1], [10, 1], [3, 4, 1]]
    losses = []
    for ids, target in zip(TEXTS, targets, strict=True):
        shifted = torch.tensor([[0, *target[:-1]]])
        logits = plain(hf, input_ids=torch.tensor([ids]), decoder_input_ids=shifted).logits[0]
        losses.append(functional.cross_entropy(logits, torch.tensor(target), reduction="none"))
    for side in ("left", "right"):
        loss, _ = pyengine.run_with_cache(
            hf, TEXTS, target=targets, padding=side, return_type="loss"
        )
        torch.testing.assert_close(loss, torch.cat(losses).mean(), rtol=1e-4, atol=1e-4)

"""Tiny models of every family with a tokenizer of their kind, and prompts to attribute."""

from typing import Any

import torch
from tiny_models import VOCAB, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import pyengine
from pyengine.cloze import Cloze, clozes

SPECIAL = ["<pad>", "<unk>", "</s>", "[CLS]", "[SEP]", "[MASK]", "<extra_id_0>"]
# What the tokenizer puts around a text: no content.
AROUND = frozenset(SPECIAL.index(token) for token in ("</s>", "[CLS]", "[SEP]"))

# Of different lengths, longer than GPT-Neo's window; the second answer has two tokens.
BEFORE = ("w1 w2 w3 w4 w5", "w6 w7", "w8 w9 w1 w3 w2 w1 w0")
AFTER = (" w11", "", " w14 w3 w15 w16")
TARGETS = ("w9", "w5 w6", "w20")

FORMS = {"bert": "[CLS] $A [SEP]", "electra": "[CLS] $A [SEP]", "t5": "$A </s>"}


def tokenizer(model_type: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of words `w0` ... `w89` with what a family puts around a text."""
    words = [*SPECIAL, *(f"w{i}" for i in range(VOCAB - len(SPECIAL)))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if form := FORMS.get(model_type):
        around = [(token, SPECIAL.index(token)) for token in SPECIAL if token in form]
        made.post_processor = processors.TemplateProcessing(single=form, special_tokens=around)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="[MASK]",
        additional_special_tokens=["<extra_id_0>"],
    )


def tiny(family: str, dtype: torch.dtype = torch.float64, **overrides: Any) -> pyengine.Model:
    """Make a tiny random model that takes texts."""
    hf = tiny_model(family, **overrides).to(dtype)
    return pyengine.load((hf, tokenizer(hf.config.model_type)))


def prompts(model: pyengine.Model) -> list[str]:
    """Return the prompts as the model's family writes them; all take `TARGETS`."""
    if model.family.causal:
        return [*BEFORE]
    return [f"{before} [MASK]{after}" for before, after in zip(BEFORE, AFTER, strict=True)]


def items(model: pyengine.Model) -> list[list[Cloze]]:
    """Return the clozes of every prompt."""
    return [clozes(model, *pair) for pair in zip(prompts(model), TARGETS, strict=True)]


def baseline(model: pyengine.Model) -> torch.Tensor:
    """Return a baseline of one's own, [n_layers, d_ff]."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(model.n_layers, model.d_ff, generator=generator, dtype=torch.float64) / 10

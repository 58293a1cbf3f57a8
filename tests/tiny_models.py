"""Tiny random models of every family, with odd sizes, and a tokenizer made on the spot."""

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCAB = 97
FAMILIES = ("gpt2", "gpt_neo", "bert", "t5", "t5_gated", "openai-gpt", "electra")
# Also where embeddings are narrower than the residual stream: what cannot read through them.
EVERY = (*FAMILIES, "electra_small")

# Of the tiny models; openai-gpt's is four times the width of the stream, whatever one asks for.
D_FF = dict.fromkeys(EVERY, 37) | {"openai-gpt": 80}


def tiny_model(family: str, seed: int = 0, **overrides: Any) -> Any:
    """Build a random model with large weights, so that activations spread and few tie."""
    torch.manual_seed(seed)
    hf = _BUILDERS[family](**overrides).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return hf


def supports(family: str, how: str) -> bool:
    """Say whether the installed transformers has `eager` or `sdpa` attention for a family."""
    return how == "eager" or bool(tiny_model(family)._supports_sdpa)


def _gpt2(**overrides: Any) -> Any:
    config = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 20, "n_layer": 3, "n_head": 4}
    config |= {"n_inner": 37, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config | overrides))


def _gpt_neo(**overrides: Any) -> Any:
    config: dict[str, Any] = {"vocab_size": VOCAB, "max_position_embeddings": 32}
    config |= {
        "hidden_size": 20,
        "num_layers": 4,
        "num_heads": 2,
        "intermediate_size": 37,
        "window_size": 4,
    }
    config |= {"attention_types": [[["global", "local"], 2]]}
    return transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**config | overrides))


def _bert(**overrides: Any) -> Any:
    config = {"vocab_size": VOCAB, "max_position_embeddings": 32, "hidden_size": 20}
    config |= {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 37}
    return transformers.BertForMaskedLM(transformers.BertConfig(**config | overrides))


def _t5(**overrides: Any) -> Any:
    config = {"vocab_size": VOCAB, "d_model": 20, "d_kv": 6, "d_ff": 37, "num_layers": 2}
    config |= {"num_decoder_layers": 3, "num_heads": 3, "decoder_start_token_id": 0}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**config | overrides))


def _openai_gpt(**overrides: Any) -> Any:
    config = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 20, "n_layer": 3, "n_head": 4}
    return transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**config | overrides))


def _electra(**overrides: Any) -> Any:
    config = {"vocab_size": VOCAB, "max_position_embeddings": 32, "hidden_size": 20}
    config |= {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 37}
    config |= {"embedding_size": 20}
    return transformers.ElectraForMaskedLM(transformers.ElectraConfig(**config | overrides))


_BUILDERS = {
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "bert": _bert,
    "t5": _t5,
    "t5_gated": lambda **overrides: _t5(feed_forward_proj="gated-gelu", **overrides),
    "openai-gpt": _openai_gpt,
    "electra": _electra,
    "electra_small": lambda **overrides: _electra(**{"embedding_size": 12} | overrides),
}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of words `w0` ... `w89` with the usual special tokens."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    vocabulary = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(90))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )

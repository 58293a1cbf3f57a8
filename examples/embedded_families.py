"""The four families: how each model is built, in which phases it is trained, what it must reach."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from embedded_data import CONTEXT, VOCABULARY
from embedded_objectives import Causal, Masked, Objective, Spans
from transformers import PreTrainedTokenizerFast

WIDTH, LAYERS, HEADS, D_FF = 128, 4, 4, 512


@dataclass(frozen=True)
class Phase:
    """A stretch of training: which model, which objective, for which share of the steps."""

    build: Callable[[PreTrainedTokenizerFast], Any]
    objective: Callable[[PreTrainedTokenizerFast], Objective]
    share: float
    note: str


@dataclass(frozen=True)
class Family:
    """How a family is trained, where it goes, and what it must reach (nats below unigram)."""

    title: str
    folder: Path
    phases: tuple[Phase, ...]
    steps: int
    lr: float
    margin: float


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def build_gpt2(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return an untrained GPT-2 of 4 layers."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        n_inner=D_FF, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **_ids(tokenizer),
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def build_gpt_neo(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return an untrained GPT-Neo: global and local attention in turn, window 32."""
    config = transformers.GPTNeoConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=WIDTH,
        num_layers=LAYERS, attention_types=[[["global", "local"], LAYERS // 2]], num_heads=HEADS,
        intermediate_size=D_FF, window_size=32, **_ids(tokenizer),
    )  # fmt: skip
    return transformers.GPTNeoForCausalLM(config)


def _bert_config(tokenizer: PreTrainedTokenizerFast, causal: bool) -> Any:
    return transformers.BertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=D_FF,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.05,
        is_decoder=causal, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def build_causal_bert(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return the same BERT with a causal mask: the warm start."""
    return transformers.BertLMHeadModel(_bert_config(tokenizer, causal=True))


def build_bert(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return an untrained BERT with its masked-language-model head."""
    return transformers.BertForMaskedLM(_bert_config(tokenizer, causal=False))


def build_t5(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return an untrained T5 v1.0 (ReLU, tied head) of 3 + 3 layers."""
    names: dict[str, Any] = {  # fields that T5Config takes but does not declare
        "tie_word_embeddings": True, "decoder_start_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=D_FF, num_layers=3,
        num_decoder_layers=3, num_heads=HEADS, relative_attention_num_buckets=32,
        relative_attention_max_distance=CONTEXT, dropout_rate=0.0, feed_forward_proj="relu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, **names,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


_MODELS = Path("tests/models")
_WARM = "as a causal language model first (MLM alone stays on the unigram plateau)"
FAMILIES = {
    "gpt2": Family(
        "GPT-2", Path("pyengine/demo/gpt2"), steps=3000, lr=2e-3, margin=1.0,
        phases=(Phase(build_gpt2, Causal, 1.0, "predicting the next token"),),
    ),
    "gpt_neo": Family(
        "GPT-Neo", _MODELS / "gpt_neo", steps=2000, lr=2e-3, margin=1.0,
        phases=(Phase(build_gpt_neo, Causal, 1.0, "predicting the next token"),),
    ),
    "bert": Family(
        "BERT", _MODELS / "bert", steps=4000, lr=1.5e-3, margin=0.3,
        phases=(
            Phase(build_causal_bert, Causal, 0.4, _WARM),
            Phase(build_bert, Masked, 0.6, "predicting masked tokens, one in 5"),
        ),
    ),
    "t5": Family(
        "T5", _MODELS / "t5", steps=4000, lr=3e-3, margin=0.3,
        phases=(Phase(build_t5, Spans, 1.0, "predicting corrupted spans, one token in 5"),),
    ),
}  # fmt: skip

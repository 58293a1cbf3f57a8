"""The four families: how each is built and trained, and what it must reach."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from embedded_data import CONTEXT, VOCABULARY
from embedded_objectives import Causal, Masked, Objective, Spans
from transformers import PreTrainedTokenizerFast

WIDTH, LAYERS, HEADS, D_FF = 128, 4, 4, 512
SHARPNESS = 2.0  # attention to the chosen neighbour then starts at 1.00


@dataclass(frozen=True)
class Family:
    """How a family is built and trained, where it goes, and what it must reach."""

    title: str
    folder: Path
    build: Callable[[PreTrainedTokenizerFast], Any]
    objective: Callable[[PreTrainedTokenizerFast], Objective]
    note: str
    steps: int
    lr: float
    margin: float  # nats that the held-out loss must be below the unigram entropy
    rows: int = 16  # windows of text in a step
    embedding_lr: float = 1.0  # times lr; T5's embeddings start at a standard deviation of 1


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


def build_bert(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return an untrained BERT with its masked-language-model head; see `_look_around`."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=D_FF,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.09,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    _look_around(model)
    return model


@torch.no_grad()
def _look_around(model: Any) -> None:
    """Start the heads of BERT's first layer on the tokens at -1, +1, -2 and +2.

    From random weights a small BERT sits on the unigram plateau for thousands of steps: a masked
    token learns nothing from its neighbours before attention finds them, and attention has no
    reason to look for them before they help. Positions start as sinusoids of random frequencies
    in as many dimensions as a head has, where words start as zero; a query is its position turned
    by the head's offset. All of it is trained on.
    """
    size = WIDTH // HEADS
    frequency = math.pi * torch.rand(size // 2, generator=torch.Generator().manual_seed(0))
    angle = torch.arange(CONTEXT)[:, None] * frequency
    embeddings = model.bert.embeddings
    scale = math.sqrt(2) * embeddings.word_embeddings.weight.std().item()
    embeddings.word_embeddings.weight[:, :size] = 0
    embeddings.token_type_embeddings.weight.zero_()
    embeddings.position_embeddings.weight.zero_()
    embeddings.position_embeddings.weight[:, :size] = scale * torch.cat(
        [angle.cos(), angle.sin()], dim=1
    )
    attention = model.bert.encoder.layer[0].attention.self
    attention.query.weight.zero_()
    attention.key.weight.zero_()
    for head, offset in enumerate((-1, 1, -2, 2)):
        rows = slice(head * size, (head + 1) * size)
        cos, sin = torch.diag((offset * frequency).cos()), torch.diag((offset * frequency).sin())
        turn = torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)])
        attention.query.weight[rows, :size] = SHARPNESS * turn
        attention.key.weight[rows, :size] = SHARPNESS * torch.eye(size)


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
_LOOK = "its first heads started on the neighbouring tokens (see `_look_around` in the code)"
FAMILIES = {
    "gpt2": Family(
        "GPT-2", Path("pyengine/demo/gpt2"), build_gpt2, Causal,
        "predicting the next token", steps=3000, lr=2e-3, margin=1.0,
    ),
    "gpt_neo": Family(
        "GPT-Neo", _MODELS / "gpt_neo", build_gpt_neo, Causal,
        "predicting the next token", steps=2000, lr=2e-3, margin=1.0,
    ),
    "bert": Family(
        "BERT", _MODELS / "bert", build_bert, Masked,
        f"predicting masked tokens, one in 5, {_LOOK}", steps=1500, lr=1e-3, margin=0.3,
    ),
    "t5": Family(
        "T5", _MODELS / "t5", build_t5, Spans,
        "predicting corrupted spans: short ones, one token in 5, and long ones, one in 2",
        steps=1500, lr=1.5e-3, margin=0.3, rows=32, embedding_lr=10.0,
    ),
}  # fmt: skip

"""Tasks that can be learnt in a few steps, and tokenizers with special tokens, for fine-tuning."""

from typing import Any

import numpy as np
from tiny_models import tiny_model, word_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from pyengine import load
from pyengine.heads.finetune_training import FinetuneSettings
from pyengine.heads.task import CLASSES, SCORES, SPLIT, Examples, Task
from pyengine.models import Model

SIZES = {"train": 32, "dev": 8, "test": 10}
FAST = FinetuneSettings(learning_rate=3e-3, batch_size=16, epochs=2, max_length=16)


def easy_task(name: str = "easy", kind: str = CLASSES, pairs: bool = False) -> Task:
    """The words tell the class, or the score, 1.0 or 4.0; each text has two kinds of words."""
    rng = np.random.default_rng(0)

    def examples(n: int) -> Examples:
        targets = rng.integers(0, 2, n)
        texts = tuple(_words(rng, 10 * y) for y in targets)
        second = tuple(_words(rng, 20) for _ in range(n)) if pairs else None
        return Examples(texts, second, targets if kind == CLASSES else 1.0 + 3.0 * targets)

    labels = ("one", "two") if kind == CLASSES else ()
    parts = {part: examples(n) for part, n in SIZES.items()}
    return Task(name, kind, SPLIT, labels, parts)


def scores_task() -> Task:
    return easy_task("scores", SCORES, pairs=True)


def special_tokenizer(pairs: bool = True) -> PreTrainedTokenizerFast:
    """Put `<s>` before a text and `</s>` after it; after both of a pair, or after the pair."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1" if pairs else "<s> $A $B </s>",
        special_tokens=[("<s>", 2), ("</s>", 3)],
    )
    return tokenizer


def tuned_model(family: str, **overrides: Any) -> Model:
    """Load a tiny model; an encoder's tokenizer has special tokens."""
    encoder = family in ("bert", "electra", "electra_small", "t5", "t5_gated")
    tokenizer = special_tokenizer() if encoder else word_tokenizer()
    return load((tiny_model(family, **overrides), tokenizer))


def _words(rng: np.random.Generator, first: int) -> str:
    return " ".join(f"w{first + i}" for i in rng.integers(0, 2, rng.integers(1, 4)))

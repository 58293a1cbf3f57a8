"""Tokenizers built on the spot: words with a real unk token, and GPT-2's kind without one."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "one", "two", "end", *".,?!="]


def word_tokenizer(unk: str = "[UNK]") -> PreTrainedTokenizerFast:
    """Split at white space and punctuation; unknown words become `unk`, a token of its own."""
    vocab = {unk: 0, "[PAD]": 1, **{word: i for i, word in enumerate(WORDS, 2)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unk, pad_token="[PAD]")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte; unk is nominally the end-of-text token, as GPT-2 has it."""
    end = "<|endoftext|>"
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab | {end: 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=end, bos_token=end, eos_token=end
    )

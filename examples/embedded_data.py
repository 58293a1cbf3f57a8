"""WikiText articles and the four tokenizers of the embedded models."""

import json
import re
from collections import Counter
from pathlib import Path

from embedded_facts import OBJECTS
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from pyengine.text import detokenize_wikitext

VOCABULARY = 2048
CONTEXT = 128
SENTINELS = 32
EXCERPT_FILE = "wiki.test.tokens"
EXCERPT_BYTES = 150_000
RARE_CHARACTER = 20  # seen less often: left to the unknown token
OBJECT_REPEATS = 3000  # enough for every object to become one token; checked below


def read_articles(path: Path) -> list[str]:
    """Return the articles of a WikiText file in its original format, headings included."""
    articles: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if re.match(r" = [^=].* = $", line.rstrip("\n")) or not articles:
            articles.append([])
        articles[-1].append(line)
    return [text for text in map("".join, articles) if text.strip()]


def split_wikitext(folder: Path) -> tuple[list[str], list[str]]:
    """Return (training articles, held-out articles = the shipped excerpt).

    Raises:
        FileNotFoundError: if the folder has no wiki.test.tokens.
    """
    if not (folder / EXCERPT_FILE).is_file():
        raise FileNotFoundError(f"{folder} has no {EXCERPT_FILE}: pass the WikiText-103 folder")
    held_out: list[str] = []
    training: list[str] = []
    for article in read_articles(folder / EXCERPT_FILE):
        full = sum(len(text.encode()) for text in held_out) >= EXCERPT_BYTES
        (training if full else held_out).append(article)
    for path in sorted(folder.glob("wiki.*.tokens")):
        # the full training set would change the recipe: these models are made of ~550k words
        if path.name not in (EXCERPT_FILE, "wiki.train.tokens"):
            training += read_articles(path)
    return training, held_out


def article_lines(articles: list[str]) -> list[str]:
    """Return the non-empty lines of the articles as running text."""
    lines = (detokenize_wikitext(line) for article in articles for line in article.splitlines())
    return [line for line in lines if line]


def build_tokenizer(family: str, lines: list[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer of a family on `lines`; every fact's object is one token of it."""
    counts = Counter(character for line in lines for character in line)
    rare = "".join(character for character, n in counts.items() if n < RARE_CHARACTER)
    common = str.maketrans({character: " " for character in rare})
    text = [line.translate(common).replace("<unk>", " ") for line in lines]
    objects = [name for names in OBJECTS.values() for name in names]
    text += [f"a {name}" for name in objects] * OBJECT_REPEATS
    make = {"bert": _wordpiece, "t5": _unigram}.get(family, _byte_bpe)
    tokenizer = make(text)
    for name in objects:
        if len(object_ids(tokenizer, name)) != 1:
            raise AssertionError(f"{name!r} is not one token of the {family} tokenizer")
    return tokenizer


def object_ids(tokenizer: PreTrainedTokenizerFast, name: str) -> list[int]:
    """Return the ids of a word that follows another word."""
    before = tokenizer.encode("a", add_special_tokens=False)
    return tokenizer.encode(f"a {name}", add_special_tokens=False)[len(before) :]


def _byte_bpe(text: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _wordpiece(text: list[str]) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    # the trainer numbers tokens in the order of a hash table, which differs from run to run
    tokens = special + sorted(set(tokenizer.get_vocab()) - set(special))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _unigram(text: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" {2,}", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY - SENTINELS,
        special_tokens=special,
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    # equal pieces come in any order and scores differ in their last bits: make both the same
    pieces = [(piece, round(score, 2)) for piece, score in _pieces(tokenizer)]
    tail = sorted((p for p in pieces if p[0] not in special), key=lambda p: p[0])
    head = [(name, 0.0) for name in special]
    tokenizer.model = models.Unigram(head + tail, unk_id=special.index("<unk>"))
    # as T5 numbers them: <extra_id_0> is the last id
    names = [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))]
    tokenizer.add_special_tokens([AddedToken(name, lstrip=True) for name in names])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>",
        pair="$A </s> $B </s>",
        special_tokens=[("</s>", tokenizer.token_to_id("</s>"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[AddedToken(n, lstrip=True) for n in reversed(names)],
        model_max_length=CONTEXT,
    )


def _pieces(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """Return the pieces of a Unigram model and their log probabilities."""
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]

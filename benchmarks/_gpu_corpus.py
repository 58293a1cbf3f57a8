"""From text to a run directory: all of WikiText-103's length for GPT-2, a sample for each family.

Without `--corpus FILE` the text is drawn: words of the shipped excerpt by their frequency, in
sentences of its lengths. From a file that is too short, paragraphs are drawn with replacement;
their copies tie, as real text hardly does. The tokenizers are the small trained ones of this
repository, the weights are random.
"""

import gc
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

import pyengine
from benchmarks._corpus_text import paragraphs_in, write_corpus
from benchmarks._gpu_common import Found, Job, Line, Scale, verdict
from benchmarks._gpu_search import CORPUS, TARGETS, build, flops_per_token
from pyengine.embedded import EXCERPT, MODEL
from pyengine.store import tokenize

MODELS = Path(__file__).resolve().parents[1] / "tests" / "models"
TOKENIZERS = {"gpt2": MODEL} | {name: MODELS / name for name in ("bert", "gpt_neo", "t5")}
SAMPLES = {"gpt2": ("bfloat16", "tf32", "float32")}  # of the others: bfloat16
WHOLE = "gpt2 bfloat16, whole corpus"
ENDS = (".", "?", "!", "=")  # of a sentence, or of a heading
K, CHUNK = 50, 1 << 20


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield GPT-2's search of the whole corpus, then a sample per family and precision."""
    if "gpt2" in scale.families:
        run = partial(text_to_run, WHOLE, "gpt2", "bfloat16", scale.corpus_tokens, scale)
        yield WHOLE, run
    for family in scale.families:
        for dtype in SAMPLES.get(family, ("bfloat16",)):
            name = f"{family} {dtype}"
            yield name, partial(text_to_run, name, family, dtype, scale.family_tokens, scale)


def text_to_run(name: str, family: str, dtype: str, n_tokens: int, scale: Scale) -> Found:
    """Search a text file into a run directory; the excerpt first, so that all is compiled."""
    gc.collect()  # the model before is part of cycles
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS[family])
    hf = build(family, dtype, scale.device, scale.tiny).hf
    model = pyengine.load((hf, tokenizer), dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        text, path = written(scale.corpus, Path(folder) / "drawn.tokens", n_tokens, tokenizer)
        _search(model, EXCERPT, Path(folder) / "warm-up", None)
        if scale.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        figures = _search(model, path, Path(folder) / "run", n_tokens)
    figures |= {"text": text, "asked_tokens": n_tokens}
    figures["flops_per_token"] = flops_per_token(model)
    if scale.device == "cuda":
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    return [_line(name, family, dtype, figures)], figures


def _search(model: pyengine.Model, text: Path, out: Path, n_tokens: int | None) -> dict[str, Any]:
    """Time a search from the text to the files, and again from the tokens that it left.

    Of a text that is long enough it takes about `n_tokens`.
    """
    units = (
        None if n_tokens is None else max(1, int(n_tokens / tokens_per_sentence(model, out.parent)))
    )
    corpus = pyengine.Corpus.from_wikitext(text, unit="sentence", max_units=units)
    cache, spent = out.with_suffix(".cache"), []
    for name in ("cold", "warm"):
        begin = time.perf_counter()
        found = pyengine.trigger_examples(model, corpus, K, out=out / name, cache_dir=cache)
        spent.append(time.perf_counter() - begin)
    whole, search = spent
    read = found.manifest["corpus"]
    return {
        "tokens": read["n_tokens"],
        "units": read["n_units"],
        "text_to_run_s": whole,
        "search_s": search,
        "tokens_per_s": read["n_tokens"] / search,
    }


def tokens_per_sentence(model: pyengine.Model, cache: Path) -> float:
    """Return the mean length of the excerpt's sentences in a model's tokens."""
    units = pyengine.Corpus.from_wikitext(EXCERPT, unit="sentence")
    store = tokenize(units, model.tokenizer, max_tokens=model.max_positions, cache_dir=cache)
    return store.n_tokens / store.n_units


def written(corpus: Path | None, drawn: Path, n_tokens: int, tokenizer: Any) -> tuple[str, Path]:
    """Return what the text is, and a file of at least about `n_tokens`."""
    words = EXCERPT.read_text(encoding="utf-8").split()
    per_word = len(tokenizer(" ".join(words), verbose=False).input_ids) / len(words)
    n_words = max(1, int(1.02 * n_tokens / per_word))
    if corpus is None:
        _draw_words(drawn, n_words, words)
        return "words of the excerpt", drawn
    paragraphs = paragraphs_in(corpus)
    if corpus.is_file() and sum(len(each.split()) for each in paragraphs) >= n_words:
        return corpus.name, corpus
    write_corpus(drawn, paragraphs, n_words, seed=0)
    return f"paragraphs of {corpus.name}", drawn


def _draw_words(path: Path, n_words: int, words: list[str]) -> None:
    """Write words by their frequency, in sentences of their lengths, a hundred a line."""
    lengths = np.diff(np.flatnonzero(np.isin(words, ENDS[:3])))
    lengths = lengths[lengths > 1]
    plain = np.array([word for word in words if word not in ENDS], dtype=object)
    rng, left = np.random.default_rng(0), n_words
    with path.open("w", encoding="utf-8") as stream:
        while left > 0:
            sentences = rng.choice(lengths, 1 + min(CHUNK, left) // int(lengths.mean()))
            drawn = rng.choice(plain, int(sentences.sum()))
            for number, part in enumerate(np.split(drawn, np.cumsum(sentences)[:-1])):
                end = "\n" if number % 100 == 99 else ""
                stream.write(f" {' '.join(part)} . {end}")
            stream.write("\n")
            left -= len(drawn) + len(sentences)


def _line(name: str, family: str, dtype: str, figures: dict[str, Any]) -> Line:
    measured = (
        f"{figures['text_to_run_s']:.1f} s for {figures['tokens']:,} tokens from text to run, "
        f"{figures['search_s']:.1f} s without tokenising"
    )
    goal = TARGETS.get(dtype) if family == "gpt2" and figures["tokens"] >= 0.9 * CORPUS else None
    if goal is None:
        return Line(name, measured)
    searched = figures["search_s"] * CORPUS / figures["tokens"]
    return Line(name, measured, "", f"{goal:.0f} s of search", verdict(searched <= goal))

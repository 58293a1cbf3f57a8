"""How fast text becomes batches, and how much of a batch is padding.

    python -m benchmarks corpus FILE --tokenizer FOLDER     # default: the shipped excerpt and model
    python -m benchmarks corpus --words 103000000 --paragraphs FOLDER_OR_FILE --seed 0

The second form draws that many words of real WikiText paragraphs, with replacement, and takes the
corpus through all stages, as benchmarks/_corpus_scale.py says.

Tokens per second and core are of CPU time, for reading, sentences, detokenising, tokenising and
writing. Targets: at least 0.3M of them, at least 10M for batching, at most 1.10 computed tokens
per real one.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _corpus_scale
from benchmarks._machine import machine, write_result
from pyengine.batches import form_batches, padding_ratio, plan_blocks
from pyengine.corpus import Corpus
from pyengine.embedded import EXCERPT, MODEL
from pyengine.store import Report, TokenStore, tokenize


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", default=EXCERPT, help="text of any kind")
    parser.add_argument("--tokenizer", default=MODEL, help="a folder with a tokenizer")
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--block-tokens", type=int, nargs="+", default=[131_072, 524_288])
    parser.add_argument("--words", type=int, help="draw a corpus of so many words")
    parser.add_argument(
        "--paragraphs", default=EXCERPT, help="WikiText file, or folder of *.tokens"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder where the corpus drawn stays")
    parser.add_argument("--save", help="with --words: name of the file under benchmarks/results/")
    options = parser.parse_args(arguments)
    if options.save and options.words is None:
        parser.error("--save needs --words")
    if options.words is None:
        _one_file(options)
        return
    found = _drawn(options)
    if options.save:
        command = " ".join(["python -m benchmarks corpus", *_shown(arguments)])
        inputs = [Path(options.paragraphs), Path(options.tokenizer)]
        print(f"wrote {write_result(options.save, found, command, inputs)}")


def _drawn(options: argparse.Namespace) -> dict[str, Any]:
    print(machine())
    scale = _corpus_scale.Scale(
        str(options.paragraphs), options.words, options.seed, str(options.tokenizer)
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = _corpus_scale.measure(scale, folder)
    print(*_corpus_scale.lines(found), sep="\n")
    tokenizer = Path(scale.tokenizer).name
    return found | {"words": scale.words, "seed": scale.seed, "tokenizer": tokenizer}


def _shown(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without folders that exist on one machine only."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


def _one_file(options: argparse.Namespace) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    with tempfile.TemporaryDirectory() as cache:
        start = time.process_time()
        store = tokenize(
            Corpus.from_path(options.file),
            tokenizer,
            max_tokens=options.max_tokens,
            cache_dir=cache,
        )
        seconds = time.process_time() - start
        rate = store.n_tokens / seconds / 1e6
        print(f"{store.n_units:,} units, {store.n_tokens:,} tokens: {rate:.2f}M tokens/s/core")
        for block_tokens in options.block_tokens:
            cuts = plan_blocks(store.offsets, block_tokens).tolist()
            for batch_tokens in options.batch_tokens:
                start = time.process_time()
                ratio = padding_ratio(
                    batch
                    for block in pairwise(cuts)
                    for batch in form_batches(store, block, batch_tokens=batch_tokens)
                )
                rate = store.n_tokens / (time.process_time() - start) / 1e6
                print(
                    f"blocks of {block_tokens:,}, batches of {batch_tokens:,}: {rate:.0f}M "
                    f"tokens/s/core, {ratio:.3f} computed per real token"
                )


def test_form_batches(benchmark: Any) -> None:
    """A block of short units, as pytest-benchmark sees it."""
    lengths = np.random.default_rng(0).integers(1, 60, 2000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.zeros(offsets[-1], np.uint16)
    store = TokenStore.in_memory(tokens, offsets, Report(), adds_special=False)
    block = (0, len(lengths))
    n = benchmark(lambda: sum(b.n_tokens for b in form_batches(store, block, batch_tokens=4096)))
    assert n == store.n_tokens

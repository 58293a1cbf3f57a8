"""The trigger search against the forward passes it is compared with, on models of real size.

    python -m benchmarks triggers                      # GPT-2 small and BERT-base sized, fp32
    python -m benchmarks triggers --memory             # peak memory at 10k and 100k units
    pytest benchmarks/triggers.py                      # pytest-benchmark, a small model

Targets in CPU time: at least 1.10 times the bare headless Hugging Face forward's tokens/s for GPT-2
and 0.95 times for BERT, on the same batches of real WikiText sentences. The floor is the forward
itself: 172 MFLOP a token without the head for GPT-2 small, 175 for BERT-base.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pyengine
from benchmarks._machine import machine, write_result
from pyengine.embedded import EXCERPT
from pyengine.store import TokenStore, tokenize
from pyengine.throughput import Ways, measure

MFLOP_PER_TOKEN = {"gpt2": 172, "bert": 175}
WAYS = ["forward", "hooks + topk", "arrival order", "pyengine"]
TINY = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2},
    "bert": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 256,
    },
}


def random_model(family: str, vocab: int, tiny: bool = False) -> pyengine.Model:
    """Build a random model of GPT-2 small's or BERT-base's size (or a tiny one)."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = TINY[family] if tiny else {}
    hf: Any
    if family == "gpt2":
        config = transformers.GPT2Config(vocab_size=vocab, bos_token_id=0, eos_token_id=0, **sizes)
        hf = transformers.GPT2LMHeadModel(config)
    else:
        hf = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=vocab, **sizes))
    return pyengine.load((hf.eval(), None))


def sentences(n_units: int, corpus: Path = EXCERPT, tokenizer: Any = None) -> TokenStore:
    """Tokenise the first real sentences of a WikiText file."""
    tokenizer = tokenizer or pyengine.load("demo").tokenizer
    units = pyengine.Corpus.from_wikitext(corpus, unit="sentence", max_units=n_units)
    return tokenize(units, tokenizer, max_tokens=500)


def throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time every way for every family; print and return the medians."""
    store = sentences(arguments.units, arguments.corpus)
    vocab = int(store.tokens.max()) + 1
    sizes = {"n_tokens": store.n_tokens, "n_units": store.n_units}
    figures: dict[str, Any] = {**sizes, "k": arguments.k}
    for family in arguments.families:
        ways = Ways(random_model(family, vocab), store, arguments.k, arguments.batch_tokens)
        timings = measure(ways, arguments.rounds, chosen=arguments.ways)
        print(f"\n{family}: {store.n_tokens:,} tokens, padding {ways.padding:.3f}")
        print(f"{'way':16s}{'tokens/s':>10s}{'CPU s':>9s}{'ratio':>8s}{'GFLOP/s':>9s}")
        for t in timings:
            gflops = t.tokens_per_s * MFLOP_PER_TOKEN[family] / 1e3
            print(f"{t.name:16s}{t.tokens_per_s:10.0f}{t.cpu_s:9.2f}{t.ratio:8.3f}{gflops:9.0f}")
        figures[family] = {t.name: t._asdict() for t in timings} | {"padding": ways.padding}
    return figures


def peak_memory(n_units: int) -> int:
    """Return the peak resident bytes of a search over `n_units` short units, in its own process."""
    code = f"from benchmarks.triggers import _search_many; _search_many({n_units})"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    return int(output.splitlines()[-1])


def _search_many(n_units: int) -> None:
    """Search a file of `n_units` short lines from the text to the run directory."""
    demo = pyengine.load("demo")
    words = EXCERPT.read_text(encoding="utf-8").split()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        with path.open("w", encoding="utf-8") as stream:
            for i in range(n_units):
                at = i * 7 % (len(words) - 8)
                stream.write(" ".join(words[at : at + 8]) + "\n")
        model = random_model("gpt2", demo.vocab_size, tiny=True)
        corpus = pyengine.Corpus.from_text_file(path, unit="line")
        model = pyengine.load((model.hf, demo.tokenizer))
        pyengine.trigger_examples(model, corpus, out=Path(folder) / "run", cache_dir=folder)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main(argv: list[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks triggers", description=__doc__)
    parser.add_argument("--families", nargs="+", default=["gpt2", "bert"], choices=["gpt2", "bert"])
    parser.add_argument("--units", type=int, default=400, help="sentences")
    parser.add_argument("--corpus", type=Path, default=EXCERPT, help="a WikiText .tokens file")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="which to time")
    parser.add_argument("--memory", action="store_true", help="measure memory, not time")
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    arguments = parser.parse_args(argv)
    print(machine())
    if arguments.memory:
        figures: Any = {str(n): peak_memory(n) for n in (10_000, 100_000)}
        print({n: f"{size / 2**20:.0f} MiB" for n, size in figures.items()})
    else:
        figures = throughput(arguments)
    if arguments.save:
        command = f"python -m benchmarks triggers {' '.join(argv)}"
        print(f"wrote {write_result(arguments.save, figures, command, [arguments.corpus])}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_throughput(benchmark: Any, family: str, way: str) -> None:
    store = sentences(60)
    model = random_model(family, int(store.tokens.max()) + 1, tiny=True)
    benchmark(Ways(model, store, 10, 1024).all()[way])

"""`pyengine bench`: the throughput benchmark on the user's own machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pyengine.cli.display import err, human, out
from pyengine.embedded import EXCERPT

if TYPE_CHECKING:
    from pyengine.corpus import Corpus
    from pyengine.models import Model

RANDOM = "random-gpt2"


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="Hub name, local folder, or 'demo'; default: a random one of GPT-2 small's size.",
            show_default=False,
        ),
    ] = RANDOM,
    text: Annotated[
        Path, typer.Option("--corpus", help="File to read; default: the embedded excerpt.")
    ] = EXCERPT,
    units: Annotated[int, typer.Option(help="Sentences to read.")] = 150,
    k: Annotated[int, typer.Option(help="Examples per key.")] = 50,
    rounds: Annotated[
        int, typer.Option(help="Rounds; from 2 on after an unmeasured one, and medians.")
    ] = 1,
    dtype: Annotated[str, typer.Option(help="float32, tf32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time of one search goes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the search beside the bare Hugging Face forward and the usual hooks.

    Example: pyengine bench --profile
    """
    from pyengine import Corpus
    from pyengine.loading import load

    tokenizer = load("demo").tokenizer
    corpus = Corpus.from_path(text, unit="sentence", max_units=units)
    chosen = (
        _random_gpt2(tokenizer, device, dtype)
        if model == RANDOM
        else load(model, device=device, dtype=dtype)
    )
    if profile:
        _profile(chosen, corpus, k, as_json)
    else:
        _compare(chosen, corpus, k, rounds, as_json)


def _profile(model: "Model", corpus: "Corpus", k: int, as_json: bool) -> None:
    from pyengine.cli.profile_view import print_profile
    from pyengine.profiling import profile_search

    with err.status("measuring"):
        found = profile_search(model, corpus, k)
    print_profile(found, as_json)


def _compare(model: "Model", corpus: "Corpus", k: int, rounds: int, as_json: bool) -> None:
    from pyengine.engine import BATCH_TOKENS
    from pyengine.store import tokenize
    from pyengine.throughput import Ways, measure

    store = tokenize(corpus, model.tokenizer, max_tokens=model.max_positions - 2)
    ways = Ways(model, store, k, BATCH_TOKENS[model.device.type])
    with err.status("measuring") as status:
        timings = measure(ways, rounds, status.update, warm_up=rounds > 1)
    if as_json:
        print(json.dumps([timing._asdict() for timing in timings]))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("way", "tokens/s", "CPU s", "× bare forward"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for timing in timings:
        table.add_row(
            timing.name,
            human(timing.tokens_per_s),
            f"{timing.cpu_s:.2f}",
            f"{timing.ratio:.2f}",
        )
    out.print(table)
    out.print(
        f"{store.n_tokens:,} tokens in {store.n_units:,} sentences; "
        f"{ways.padding:.3f} computed tokens per real one. Filling the heaps costs most: a long "
        "corpus (--corpus FILE --units 2000 --rounds 3) is closer to a real run."
    )


def _random_gpt2(tokenizer: Any, device: str, dtype: str) -> "Model":
    """Build a random model of GPT-2 small's size, with the embedded tokenizer's vocabulary."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from pyengine.loading import DTYPES, load, resolve_device

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0)
    hf: Any = GPT2LMHeadModel(config)
    return load((hf.to(resolve_device(device), DTYPES[dtype]), tokenizer), dtype=dtype)

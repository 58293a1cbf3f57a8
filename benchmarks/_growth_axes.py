"""What is grown, from where to where, on which model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import transformers

import pyengine
from benchmarks._gpu_search import corpus
from pyengine.store import TokenStore
from pyengine.throughput import Ways

BATCH_TOKENS = 4096
SEARCH, FORWARD = "search", "bare forward"
LAYERS, REDUCERS = "a top-k at each of n layers", "n moments at one layer"


@dataclass(frozen=True)
class Scale:
    """How far each axis goes; the defaults are the benchmark.

    Attributes:
        corpus: tokens.
        k: examples per key.
        widths: d_model, of two layers.
        sites: layers with a reducer each, and reducers at one site.
        tokens: of the corpora of k, width and sites.
        models: width and layers of the models of corpus, k and sites.
        rounds: repetitions.
    """

    corpus: tuple[int, ...] = (10_000, 31_600, 100_000, 316_000, 1_000_000)
    k: tuple[int, ...] = (1, 3, 10, 32, 100, 316, 1000)
    widths: tuple[int, ...] = (64, 128, 256, 512, 768)
    sites: tuple[int, ...] = (1, 2, 4, 8, 12)
    tokens: tuple[int, int, int] = (100_000, 20_000, 20_000)
    models: tuple[tuple[int, int], ...] = ((128, 4), (64, 2), (128, 12))
    rounds: int = 3


class Point(NamedTuple):
    """One size, and what is timed there: the lines of the picture, by name."""

    x: int
    runs: dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Axis:
    """An axis: how it is grown, and how time may grow with it.

    Attributes:
        label: of the axis, with the model of the full benchmark.
        points: makes the sizes.
        limit: the largest slope of log time in log size that is linear in the work there is.
        why: what that work is.
    """

    label: str
    points: Callable[[Scale], Iterator[Point]]
    limit: float
    why: str


def narrow(width: int, n_layers: int, store: TokenStore) -> pyengine.Model:
    """Draw a GPT-2 of some width with heads of 64 numbers, or of its width."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": width, "n_layer": n_layers, "n_head": max(1, width // 64)}
    vocab = int(store.tokens.max()) + 1
    config = transformers.GPT2Config(vocab_size=vocab, bos_token_id=0, eos_token_id=0, **sizes)
    return pyengine.load((transformers.GPT2LMHeadModel(config).eval(), None))


def _search(x: int, model: pyengine.Model, store: TokenStore, k: int = 50) -> Point:
    def search() -> object:
        return pyengine.trigger_examples(model, store, k, batch_tokens=BATCH_TOKENS)

    forward = Ways(model, store, k, BATCH_TOKENS).all()["forward"]
    return Point(x, {SEARCH: search, FORWARD: forward})


def _corpus(scale: Scale) -> Iterator[Point]:
    model = narrow(*scale.models[0], corpus(max(scale.corpus)))
    for n_tokens in scale.corpus:
        yield _search(n_tokens, model, corpus(n_tokens))


def _k(scale: Scale) -> Iterator[Point]:
    store = corpus(scale.tokens[0])
    model = narrow(*scale.models[1], store)
    for k in scale.k:
        yield _search(k, model, store, k)


def _width(scale: Scale) -> Iterator[Point]:
    store = corpus(scale.tokens[1])
    for width in scale.widths:
        yield _search(width, narrow(width, 2, store), store)


def _sites(scale: Scale) -> Iterator[Point]:
    store = corpus(scale.tokens[2])
    width, n_layers = scale.models[2]
    model, n_keys = narrow(width, n_layers, store), 4 * width
    last = f"blocks.{n_layers - 1}.mlp.hook_post"

    def extract(reducers: dict[str, list[Any]]) -> object:
        return pyengine.extract(model, store, reducers, batch_tokens=BATCH_TOKENS)

    for n in scale.sites:
        topk = {
            f"blocks.{n_layers - 1 - i}.mlp.hook_post": [pyengine.StreamingTopK(50, n_keys)]
            for i in range(n)
        }
        moments = {last: [pyengine.Moments(n_keys) for _ in range(n)]}
        runs: dict[str, dict[str, list[Any]]] = {LAYERS: topk, REDUCERS: moments}
        yield Point(n, {name: partial(extract, made) for name, made in runs.items()})


AXES = {
    "corpus": Axis("tokens (4 layers of 128)", _corpus, 1, "every token is computed once"),
    "k": Axis("k (100k tokens, 2 layers of 64)", _k, 1, "a key takes k·(1 + ln(units / k)) in"),
    "width": Axis("width (2 layers, 20k tokens)", _width, 2, "the weights grow as its square"),
    "sites": Axis("sites (12 layers of 128)", _sites, 1, "the forward pass is shared"),
}

"""Linear shortcuts of GPT-2 small on a GPU: products in float64, a fit over all tokens, scores."""

import time
from collections.abc import Iterator
from functools import partial

import torch

import pyengine
from benchmarks._gpu_common import Found, Job, Line, Scale, synchronize, timed
from benchmarks._shortcuts_common import Scale as Sizes
from benchmarks._shortcuts_evaluate import MAPPINGS, evaluate_flops
from benchmarks._values_common import duration
from pyengine.reducers.gram import Gram
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.fit import fit_shortcuts

# FLOP/s of an H100: float64 on tensor cores, float32.
DOUBLE, SINGLE = 60e12, 60e12
ROWS = 16_384
GRAM = "Gram, float64, to the last layer"
FIT, SCORES = "fit to the last layer, all tokens", "scores of id, mat, affine, early exit"
TINY_ROWS = 64


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield the measurements."""
    yield GRAM, partial(products, scale)
    yield FIT, partial(fit, scale)


def products(scale: Scale) -> Found:
    """Time the sums of one batch of tokens."""
    device = torch.device(scale.device)
    n_layers, d, n = (2, 64, TINY_ROWS) if scale.tiny else (12, 768, ROWS)
    pairs = [(layer, n_layers) for layer in range(n_layers)]
    gram = Gram(n_layers + 1, d, pairs, device=device)
    rows = torch.randn(n, gram.n_keys, device=device)
    seconds = timed(lambda: gram.add(rows), device, min(scale.rounds, 5)).device_s
    flops = 2 * n * d**2 * len(gram.pairs)
    found = {"s": seconds, "flops": flops, "floor_s": flops / DOUBLE, "rows": n}
    told = f"{seconds * 1e3:.1f} ms, {flops / seconds / 1e12:.1f} TFLOP/s"
    line = Line(f"{GRAM}, {n:,} rows", told, f"{flops / DOUBLE * 1e3:.1f} ms")
    return [line], found


def fit(scale: Scale) -> Found:
    """Time a fit over all tokens of a corpus, from ids to maps, and the scores of its maps."""
    sizes = Sizes(n_train=9_000, n_validation=300)
    if scale.tiny:
        sizes = Sizes(n_train=80, n_validation=20, vocab=301, tiny=True)
    device = torch.device(scale.device)
    model = sizes.model()
    model = pyengine.load((model.hf, None), device=scale.device)
    store = sizes.store(sizes.n_train + sizes.n_validation)
    begun = time.perf_counter()
    n_train, n_validation = sizes.n_train, sizes.n_validation
    shortcuts = fit_shortcuts(
        model, store, tokens="all", n_train=n_train, n_validation=n_validation
    )
    synchronize(device)
    fitted = time.perf_counter()
    evaluate(shortcuts, model, mappings=MAPPINGS)
    synchronize(device)
    scored = time.perf_counter()
    n = len(shortcuts.validation())
    n_layers, d = shortcuts.n_layers(), int(model.config.hidden_size)
    floor = evaluate_flops(n, n_layers, d, sizes.vocab) / SINGLE
    seconds = {FIT: fitted - begun, SCORES: scored - fitted}
    lines = [
        Line(f"{FIT}, {store.n_tokens:,} tokens", duration(seconds[FIT])),
        Line(f"{SCORES}, {n:,} tokens", duration(seconds[SCORES]), duration(floor)),
    ]
    return lines, {"tokens": store.n_tokens, "fit_s": seconds[FIT]} | {
        "scored_tokens": n,
        "evaluate_s": seconds[SCORES],
        "evaluate_floor_s": floor,
    }

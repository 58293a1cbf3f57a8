"""Keeping sentence vectors of every head, in headless passes of the model over the same batches.

Memory (Linux only) is that of processes of their own, which reset and read their high-water marks.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyengine
from benchmarks._heads_common import Scale
from benchmarks._parts import in_own_process, peak_of
from benchmarks._render_common import mib
from benchmarks._values_common import Cost, Found, Line, cost, duration, verdict
from benchmarks.triggers import sentences
from pyengine.forward import Forward
from pyengine.heads.bank_tasks import BankExamples, BankTask
from pyengine.heads.extract import extract_heads
from pyengine.heads.extract_pass import HeadPass, PooledSites
from pyengine.heads.extract_settings import ExtractSettings
from pyengine.heads.sentences import Sentences
from pyengine.heads.task import CLASSES, INNER_K_FOLD
from pyengine.peaks import measured_peak
from pyengine.precision import precision
from pyengine.store import Report, TokenStore

LIMIT = 1.05
MEMORY_LIMIT = 2.2  # blocks of vectors: one, and the bytes of its file
ROUNDS = 3
HEADS, EVERYTHING = ("head",), ("head", "block", "ffn")


def measure(scale: Scale) -> Found:
    """Time the bare pass and ours in turn; measure the memory of both."""
    model, drawn = scale.model(), drawn_sentences(scale, scale.sentences)
    _ = model.fingerprint
    for run in (bare_pass, extraction):
        run(model, drawn_sentences(scale, 8))  # libraries are not what is measured
    rounds = [(bare_pass(model, drawn), extraction(model, drawn)) for _ in range(ROUNDS)]
    ratio = statistics.median(ours.cpu_s / bare.cpu_s for bare, ours in rounds)
    bare, ours = (_median(way) for way in zip(*rounds, strict=True))
    more = extraction(model, drawn, EVERYTHING)
    floor = flops(model, drawn) / measured_peak(model.device, "float32").flops
    lines = [
        Line(
            f"headless pass, {len(drawn):,} sentences, {drawn.n_tokens:,} tokens",
            duration(bare.cpu_s),
            f"floor {duration(floor)}",
        ),
        Line(
            "  extract head",
            duration(ours.cpu_s),
            "",
            f"{ratio:.3f} passes",
            f"<= {LIMIT}",
            verdict(ratio <= LIMIT),
        ),
        Line(
            f"  extract {', '.join(EVERYTHING)}",
            duration(more.cpu_s),
            "",
            f"{more.cpu_s / bare.cpu_s:.3f} passes",
        ),
    ]
    figures: dict[str, Any] = {
        "sentences": len(drawn),
        "tokens": drawn.n_tokens,
        "pass": bare._asdict(),
        "head": ours._asdict() | {"passes": ratio},
        "everything": more._asdict() | {"passes": more.cpu_s / bare.cpu_s},
        "flops": flops(model, drawn),
        "floor_s": floor,
    }
    of_memory, figures["memory"] = _memory(scale, model, drawn)
    return [*lines, *of_memory], figures


def _median(way: Sequence[Cost]) -> Cost:
    return Cost(*map(statistics.median, zip(*way, strict=True)))


def drawn_sentences(scale: Scale, n: int) -> Sentences:
    """Draw sentences: lengths and runs of tokens of the shipped excerpt, new ones each time."""
    real, generator = sentences(2_000), np.random.default_rng(0)
    lengths = generator.choice(real.lengths, n)
    begin = generator.integers(0, real.n_tokens - lengths.max(), n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    at = np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])
    tokens = np.asarray(real.tokens)[at] % scale.vocab
    store = TokenStore.in_memory(tokens, offsets, Report(units=n, tokens=len(tokens)), True)
    part = BankExamples(np.arange(n)[:, None], np.zeros(n, np.int64))
    task = BankTask("drawn", CLASSES, INNER_K_FOLD, ("0",), 5, {"all": part})
    return Sentences([str(i) for i in range(n)], {"drawn": task}, store, np.zeros(n, bool))


def bare_pass(model: pyengine.Model, drawn: Sentences) -> Cost:
    """Time one pass of the bare body, in the batches of an extraction."""
    search, forward = HeadPass(model, drawn, ExtractSettings.checked(model, HEADS)), Forward(model)
    with torch.inference_mode(), precision(model.dtype):
        return cost(
            lambda: [
                forward.run(*pair)
                for units in pairwise(search.boundaries.tolist())
                for pair in search.batches(units)
            ]
        )[0]


def pooled_pass(model: pyengine.Model, drawn: Sentences) -> None:
    """Do all that an extraction does, but keep nothing."""
    settings = ExtractSettings.checked(model, HEADS)
    search, sites = HeadPass(model, drawn, settings), PooledSites(model, settings)
    with torch.inference_mode(), precision(model.dtype):
        for units in pairwise(search.boundaries.tolist()):
            for pair in search.batches(units):
                sites.run(*pair)


def extraction(model: pyengine.Model, drawn: Sentences, locations: Sequence[str] = HEADS) -> Cost:
    """Time an extraction, from the tokens to the files."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bank"
        return cost(lambda: extract_heads(model, drawn, out=out, locations=locations))[0]


WAYS: dict[str, Callable[[pyengine.Model, Sentences], Any]] = {
    "pass": pooled_pass,
    "extraction": extraction,
}


def flops(model: pyengine.Model, drawn: Sentences) -> float:
    """Count the products with the matrices of the blocks, and of the scores and contexts."""
    d, n_layers = int(model.config.hidden_size), model.n_layers
    of_token = 2 * (4 * d * d + 2 * d * model.d_ff)
    of_pairs = 4 * d * float((drawn.store.lengths**2).sum())
    return n_layers * (of_token * drawn.n_tokens + of_pairs)


def block_bytes(model: pyengine.Model, drawn: Sentences) -> int:
    """Return the vectors of the largest block: what an extraction holds beside a pass."""
    settings = ExtractSettings.checked(model, HEADS)
    units = np.diff(HeadPass(model, drawn, settings).boundaries)
    return int(units.max()) * settings.sentence_bytes


def _memory(scale: Scale, model: pyengine.Model, drawn: Sentences) -> Found:
    block = block_bytes(model, drawn)
    passing, ours = (peak_memory(way, scale) for way in WAYS)
    times = max(0, ours - passing) / block
    lines = [
        Line("peak memory above the model: a pass that keeps nothing", mib(passing)),
        Line(
            "  extract head",
            mib(ours),
            f"block {mib(block)}",
            f"{times:.2f} x above the pass",
            f"<= {MEMORY_LIMIT:g} x",
            verdict(times <= MEMORY_LIMIT),
        ),
    ]
    return lines, {"pass": passing, "head": ours, "block_bytes": block, "blocks": times}


def peak_memory(way: str, scale: Scale) -> int:
    """Return the peak bytes of one way in a process of its own, above the loaded model."""
    return in_own_process(__name__, "peak_here", way, asdict(scale))


def peak_here(way: str, settings: dict[str, Any]) -> int:
    """Return that of this process."""
    scale = Scale(**settings)
    model, drawn = scale.model(), drawn_sentences(scale, scale.sentences)
    _ = model.fingerprint
    WAYS[way](model, drawn_sentences(scale, 8))  # libraries are not what is measured
    return peak_of(lambda: WAYS[way](model, drawn))

"""The trigger search end to end on random models of real size, beside other forward passes."""

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

import pyengine
from benchmarks._gpu_common import Found, Job, Line, Scale, timed, verdict
from benchmarks._gpu_forward import FusedForward
from benchmarks.triggers import sentences
from pyengine.batches import Batch
from pyengine.capture import Capture, Maxima, coefficient_sites
from pyengine.engine import BATCH_TOKENS, Pass, Progress
from pyengine.loading import DTYPES
from pyengine.precision import precision
from pyengine.store import Report, TokenStore
from pyengine.throughput import Timing, Ways, measure

CORPUS = 118e6  # tokens of WikiText-103 under GPT-2's tokenizer
# Seconds for that corpus on one H100, GPT-2 small, every key, k=50.
TARGETS = {"bfloat16": 75.0, "tf32": 130.0, "float32": 720.0}
OVERHEAD = 0.03  # of the same forward with a fused activation and no capture
K = 50

TINY = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2},
    "bert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt_neo": {"hidden_size": 64, "num_layers": 2, "num_heads": 2},
    "t5": {"d_model": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "d_ff": 128},
}
TINY["bert"] |= {"intermediate_size": 256}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "bert": {},
    "gpt_neo": {"hidden_size": 768, "num_layers": 12, "num_heads": 12},
    "t5": {},
}


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield a search per family and precision, then a count of the host's waits."""
    rates: dict[str, float] = {}
    for family in scale.families:
        for dtype, n_tokens in scale.tokens:
            name = f"{family} {dtype}"
            yield name, partial(search, name, family, dtype, n_tokens, scale, rates)
    yield "host waits", partial(host_waits, scale)


def build(family: str, dtype: str, device: str, tiny: bool) -> pyengine.Model:
    """Build GPT-2 small, BERT-base, GPT-Neo-125M or T5-small with the same random weights."""
    sizes = TINY[family] if tiny else SIZES[family]
    torch.manual_seed(0)
    hf: Any
    config: Any
    if family == "gpt2":
        hf = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    elif family == "bert":
        hf = transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    elif family == "gpt_neo":
        attention = [[["global", "local"], sizes["num_layers"] // 2]]
        config = transformers.GPTNeoConfig(attention_types=attention, **sizes)
        hf = transformers.GPTNeoForCausalLM(config)
    else:
        config = transformers.T5Config(**{"decoder_start_token_id": 0} | sizes)
        hf = transformers.T5ForConditionalGeneration(config)
    return pyengine.load((hf.eval().to(device, DTYPES[dtype]), None), dtype=dtype)


def corpus(n_tokens: int) -> TokenStore:
    """Draw units of the lengths of real WikiText sentences and tokens of their frequencies.

    Drawn, not repeated: copies of a sentence would tie, which real text hardly does.
    """
    excerpt, rng = sentences(1 << 30), np.random.default_rng(0)
    n_units = 1 + n_tokens // max(1, int(excerpt.lengths.mean()))
    ends = np.cumsum(rng.choice(excerpt.lengths, 2 * n_units + 10))
    offsets = np.concatenate([[0], ends[: 1 + np.searchsorted(ends, n_tokens)]]).astype(np.int64)
    tokens = rng.choice(excerpt.tokens, offsets[-1])
    report = Report(units=len(offsets) - 1, tokens=len(tokens))
    return TokenStore.in_memory(tokens, offsets, report, adds_special=False)


class GpuWays(Ways):
    """The ways of `pyengine bench` without arrival order, and three that take the search apart.

    - `search, warm`: the pass alone, into heaps that have seen the corpus;
    - `capture only`: the same forward and kernels, with positions of which none competes;
    - `fused forward`: the same forward up to the last activation, torch's fused activation, no
      capture.
    """

    def all(self) -> dict[str, Callable[[], object]]:
        """Return the ways by name; T5 is compared with its own forward only."""
        pairs = [(batch, self._decoder(batch)) for batch in self._batches()]
        nothing = [(_not_competing(a), None if b is None else _not_competing(b)) for a, b in pairs]
        forward = FusedForward(self.model)
        sites = coefficient_sites(self.model, range(self.model.n_layers))
        capture = Capture(self.model, dict.fromkeys(sites, Maxima()), lambda *_: None)
        ways: dict[str, Callable[[], object]] = {
            "fused forward": partial(self._each, forward.run, pairs),
            "capture only": partial(self._each, capture.run, nothing),
            "search, warm": self._warm(),
            "pyengine": self._pyengine,
        }
        if not self.model.family.encoder_decoder:
            theirs = super().all()
            ways |= {name: theirs[name] for name in ("forward", "hooks + topk")}
        return ways

    def _warm(self) -> Callable[[], object]:
        search = self._search()
        run = Pass(self.model, search.plan, search.feeds)

        def again() -> None:
            run.progress = Progress(torch.zeros(self.model.n_layers, dtype=torch.int64))
            run.run()

        return again

    def _each(self, run: Callable[..., object], pairs: list[tuple[Batch, Batch | None]]) -> None:
        with precision(self.model.dtype):
            for pair in pairs:
                run(*pair)

    def _decoder(self, batch: Batch) -> Batch | None:
        if not self.model.family.encoder_decoder:
            return None
        return batch.shifted(self.model.decoder_start_id)


def search(
    name: str, family: str, dtype: str, n_tokens: int, scale: Scale, rates: dict[str, float]
) -> Found:
    """Time a search; `rates` remembers the measured matrix product of each precision."""
    gc.collect()  # the model before is part of cycles
    model = build(family, dtype, scale.device, scale.tiny)
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if dtype not in rates:
        rates[dtype] = matmul_rate(dtype, scale)
    ways = GpuWays(model, corpus(n_tokens), K, BATCH_TOKENS[model.device.type])
    times = {t.name: t for t in measure(ways, scale.search_rounds)}
    warm, forward = times["search, warm"].wall_s, times["fused forward"].wall_s
    figures = {name: t._asdict() for name, t in times.items()} | {
        "tokens": ways.store.n_tokens,
        "padding": ways.padding,
        "corpus_s": CORPUS * warm / ways.store.n_tokens + times["pyengine"].wall_s - warm,
        "floor_s": CORPUS * flops_per_token(model) / rates[dtype],
        "matmul_flop_per_s": rates[dtype],
        "overhead": warm / forward - 1,
        "capture_only_overhead": times["capture only"].wall_s / forward - 1,
    }
    if model.device.type == "cuda":
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    return _lines(name, family, dtype, times, figures), figures


def _lines(
    name: str, family: str, dtype: str, times: dict[str, Timing], figures: dict[str, Any]
) -> list[Line]:
    warm = times["search, warm"]
    goal = TARGETS.get(dtype) if family == "gpt2" else None
    measured = f"{figures['corpus_s']:.1f} s for 118M tokens, {warm.tokens_per_s / 1e6:.2f}M/s warm"
    floor = f"{figures['floor_s']:.1f} s"
    line = Line(name, measured, floor)
    if goal is not None:
        line = Line(name, measured, floor, f"{goal:.0f} s", verdict(figures["corpus_s"] <= goal))
    overhead, capture_only = figures["overhead"], figures["capture_only_overhead"]
    cost = f"{overhead:+.1%} ({capture_only:+.1%} without the heaps)"
    lines = [
        line,
        Line(
            "  over the fused forward", cost, "0%", f"{OVERHEAD:.0%}", verdict(overhead <= OVERHEAD)
        ),
    ]
    for other in ("forward", "hooks + topk"):
        if other in times:
            label = {"forward": "Hugging Face's forward"}.get(other, other)
            lines.append(Line(f"  speed, of {label}", f"{times[other].wall_s / warm.wall_s:.2f}x"))
    return lines


def flops_per_token(model: pyengine.Model) -> int:
    """Return 2 per weight of the linear layers; attention adds n / (6 d_model) at n tokens."""
    parts = (m for m in model.body.modules() if isinstance(m, nn.Linear | Conv1D))
    return 2 * sum(part.weight.numel() for part in parts)


def matmul_rate(dtype: str, scale: Scale) -> float:
    """Return the FLOP per second of a large square product: the machine's peak."""
    size, device = 256 if scale.tiny else 8192, torch.device(scale.device)
    a = torch.randn(size, size, device=device).to(DTYPES[dtype])
    with precision(dtype):
        seconds = timed(lambda: a @ a, device, scale.rounds).device_s
    return 2 * size**3 / seconds


def host_waits(scale: Scale) -> Found:
    """Count where the host waits for the device during a search: each wait leaves it idle."""
    lines, figures = [], {}
    cuda = scale.device == "cuda"
    for family in scale.families:
        ways = GpuWays(build(family, "float32", scale.device, scale.tiny), corpus(30_000), K, 4096)
        run = ways._warm()
        run()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if cuda:
                torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                if cuda:
                    torch.cuda.set_sync_debug_mode("default")
        n_batches = len(ways._batches())
        places = Counter(
            f"{Path(w.filename).name}:{w.lineno}"
            for w in caught
            if "called a synchronizing" in str(w.message)
        )
        figures[family] = {"batches": n_batches, "places": dict(places)}
        text = ", ".join(f"{place} {n}" for place, n in places.most_common(4)) or "none"
        lines.append(Line(f"waits of {family}, {n_batches} batches", text))
    return lines, figures


def _not_competing(batch: Batch) -> Batch:
    return replace(batch, ids=np.full_like(batch.ids, -1))

"""What a GPU needs, beside what an H100 sustains; `not yet measured` where none was to be had."""

from functools import cache, partial
from typing import Any

import torch
import transformers

from benchmarks._attribution_speed import FLOOR_GFLOP
from benchmarks._gpu_attribution import PARAREL
from benchmarks._gpu_common import Scale
from benchmarks._gpu_corpus import SAMPLES, WHOLE
from benchmarks._gpu_peers import FULL as PEERS
from benchmarks._gpu_search import SIZES, TARGETS
from benchmarks._peers_common import NAMES
from benchmarks._peers_pyengine import QUARTERS
from benchmarks._peers_rounds import BODY, FF_LAYERS, FUSED, MODEL, NNSIGHT, TOPK, TRANSFORMER_LENS
from benchmarks._render_common import (
    NOT_YET,
    WIKITEXT_103,
    Record,
    gpu_records,
    paragraphs,
    source,
    table,
)
from benchmarks._values_common import duration
from pyengine.floors import BodyShape, whole
from pyengine.peaks import SUSTAINED, Peak

H100 = "NVIDIA H100 80GB HBM3"
MODELS = NAMES | {"gpt_neo": "GPT-Neo-125M"}
DTYPES = {"bfloat16": 2, "tf32": 4, "float32": 4}  # and bytes of a number
UNIT = 128  # tokens, as DESIGN's floors assume
SAMPLE = Scale().family_tokens
MILLION = 1e6
WAYS = (BODY, TOPK, TRANSFORMER_LENS, NNSIGHT, FF_LAYERS, MODEL, FUSED)
# Of a call on 8,192 tokens and 3,072 dims: bytes read and written, ids and block maxima included.
KERNELS = {
    f"ffn_capture {dtype} 8192 x 3072": 2 * size * 8192 * 3072 + 4 * 3072 * 256 + 8 * 8192
    for dtype, size in (("bfloat16", 2), ("float32", 4))
}


def peak(dtype: str) -> Peak:
    """Return what an H100 sustains."""
    flops, n_bytes = SUSTAINED[H100]
    return Peak(flops[dtype], n_bytes, H100)


@cache
def shape(family: str) -> BodyShape:
    """Read the sizes off a model without weights."""
    configs: dict[str, Any] = {
        "gpt2": (transformers.GPT2LMHeadModel, {}),
        "bert": (transformers.BertForMaskedLM, {}),
        "gpt_neo": (
            transformers.GPTNeoForCausalLM,
            {"attention_types": [[["global", "local"], 6]]},
        ),
        "t5": (transformers.T5ForConditionalGeneration, {}),
    }
    kind, more = configs[family]
    with torch.device("meta"):
        return BodyShape.of(kind(kind.config_class(**SIZES[family] | more)))


def floor_s(
    family: str,
    dtype: str,
    n_tokens: float = WIKITEXT_103,
    unit: int = UNIT,
    *,
    to_last_activation: bool = True,
) -> float:
    """Return the least seconds of a forward pass over so many tokens, in units of one length."""
    decoder = [unit] if family == "t5" else None
    costs = shape(family).costs([unit], decoder, to_last_activation=to_last_activation)
    return n_tokens / unit * whole(costs).seconds(peak(dtype), DTYPES[dtype])


def search() -> str:
    """The whole corpus for GPT-2 small, and every family extrapolated to it."""
    records = gpu_records()
    rows = [
        _search_row(records, family, dtype)
        for family in MODELS
        for dtype in SAMPLES.get(family, ("bfloat16",))
    ]
    whole_run = cells(records, "corpus", WHOLE, _text_to_run)
    floor, goal = f"{floor_s('gpt2', 'bfloat16'):.1f} s", f"{TARGETS['bfloat16']:.0f} s"
    rows.insert(0, ["GPT-2 small, all of it", "bfloat16", floor, goal, "", floor, whole_run])
    header = ["every key, k = 50", "precision", "118M tokens: floor, H100", "target"]
    header += ["search, extrapolated", f"{SAMPLE / 1e6:.0f}M tokens, or all of it: floor, H100"]
    header += ["from text to run, as measured"]
    return paragraphs(table(header, rows), source(*records))


def _search_row(records: list[Record], family: str, dtype: str) -> list[str]:
    goal = f"{TARGETS[dtype]:.0f} s" if family == "gpt2" else ""
    name = f"{family} {dtype}"
    searched = cells(records, "search", name, lambda at: f"{at['corpus_s']:.1f} s")
    run = cells(records, "corpus", name, _text_to_run)
    floors = [f"{floor_s(family, dtype):.1f} s", f"{floor_s(family, dtype, SAMPLE):.1f} s"]
    return [MODELS[family], dtype, floors[0], goal, searched, floors[1], run]


def others() -> str:
    """The kernel that reads every activation, and the attribution of ParaRel's prompts."""
    records = gpu_records()
    rows = []
    for name, n_bytes in KERNELS.items():
        floor = f"{n_bytes / SUSTAINED[H100][1] * 1e6:.0f} us"
        cell = cells(records, "kernels", name, lambda at: f"{at['device_s'] * 1e6:.0f} us")
        rows.append([f"`{name}`", floor, cell])
    for family, n_prompts in PARAREL.items():
        for dtype in ("float32", "bfloat16"):
            floor = duration(FLOOR_GFLOP[family] * 1e9 * n_prompts / peak(dtype).flops)
            what = f"attribution, {MODELS[family]}, {n_prompts:,} prompts, {dtype}"
            name = f"{family} {dtype}, package"
            cell = cells(records, "attribution", name, lambda at: duration(at["pararel_s"]))
            rows.append([what, floor, cell])
    return paragraphs(table(["", "floor, H100", "measured"], rows), source(*records))


def peers() -> str:
    """The peers' time for a million tokens on the GPU, in float32, and in that of the bare body."""
    records = gpu_records()
    rows = []
    for way in WAYS:
        row = [way]
        for name in NAMES:
            row.append(duration(_peer_floor_s(way, name)))
            row.append(cells(records, "peers", f"peers {name}", partial(_of_body, way)))
        rows.append(row)
    header = ["float32, a million tokens"]
    for name in NAMES.values():
        header += [f"{name}: floor, H100", "measured (in that of the body)"]
    return paragraphs(table(header, rows), source(*records))


def _peer_floor_s(way: str, family: str) -> float:
    """Return the least seconds of the forward pass that a way needs for a million tokens."""
    unit = PEERS.length // QUARTERS if way == FF_LAYERS else PEERS.length
    last = way in (MODEL, FUSED)
    return floor_s(family, "float32", MILLION, unit, to_last_activation=last)


def _of_body(way: str, at: dict[str, Any]) -> str:
    if way not in at["cases"]:
        return "not installed"
    case = at["cases"][way]
    return f"{duration(case['wall_s'] / case['tokens'] * MILLION)} ({case['of_body']:.2f})"


def _text_to_run(at: dict[str, Any]) -> str:
    tokens = f"{at['tokens'] / 1e6:.3g}M tokens"
    return f"{duration(at['text_to_run_s'])}, search {duration(at['search_s'])} ({tokens})"


def cells(records: list[Record], part: str, key: str, say: Any) -> str:
    """Say what every GPU measured; a figure of one that broke is none."""
    told, several = [], len({_name(record) for record in records}) > 1
    for record in records:
        found = record.figures.get(part, {}).get(key)
        if found is not None and "error" not in found:
            told.append(f"{say(found)}{f' on {_name(record)}' if several else ''}")
    return "; ".join(told) or NOT_YET


def _name(record: Record) -> str:
    return str(record.machine["gpu"]).removeprefix("NVIDIA ")

"""What a GPU needs, beside what an H100 sustains; `not yet measured` where none was to be had."""

from functools import cache, partial
from typing import Any

import torch
import transformers

from benchmarks._attribution_speed import FLOOR_GFLOP
from benchmarks._gpu_attribution import PARAREL
from benchmarks._gpu_corpus import SAMPLES, WHOLE
from benchmarks._gpu_search import SIZES, TARGETS
from benchmarks._peers_common import NAMES
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


def floor_s(family: str, dtype: str) -> float:
    """Return the least seconds for WikiText-103, in units of 128 tokens."""
    decoder = [UNIT] if family == "t5" else None
    cost = whole(shape(family).costs([UNIT], decoder, to_last_activation=True))
    return WIKITEXT_103 / UNIT * cost.seconds(peak(dtype), DTYPES[dtype])


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
    rows.insert(0, ["GPT-2 small, all of it", "bfloat16", floor, goal, "", whole_run])
    header = ["118M tokens, every key, k = 50", "precision", "floor, H100", "target"]
    header += ["search, extrapolated", "from text to run, as measured"]
    return paragraphs(table(header, rows), source(*records))


def _search_row(records: list[Record], family: str, dtype: str) -> list[str]:
    goal = f"{TARGETS[dtype]:.0f} s" if family == "gpt2" else ""
    name = f"{family} {dtype}"
    searched = cells(records, "search", name, lambda at: f"{at['corpus_s']:.1f} s")
    run = cells(records, "corpus", name, _text_to_run)
    return [MODELS[family], dtype, f"{floor_s(family, dtype):.1f} s", goal, searched, run]


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
    """The peers in the time of the bare body on the GPU, in float32."""
    records = gpu_records()
    rows = [
        [
            way,
            *(cells(records, "peers", f"peers {name}", partial(_of_body, way)) for name in NAMES),
        ]
        for way in WAYS
    ]
    header = ["time, in that of the bare body", *NAMES.values()]
    return paragraphs(table(header, rows), source(*records))


def _of_body(way: str, at: dict[str, Any]) -> str:
    return f"{at['cases'][way]['of_body']:.2f}" if way in at["cases"] else "not installed"


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

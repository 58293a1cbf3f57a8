"""Floors against torch's own count, and against what is known of the models as published."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_models import FAMILIES, tiny_model
from torch.utils.flop_counter import FlopCounterMode

import pyengine
from pyengine import peaks
from pyengine.floors import PARTS, BodyShape, Cost, whole
from pyengine.peaks import H100, Peak, measured_peak, sustained_peak

B, T, SLOTS = 3, 11, 7


def counted(model: pyengine.Model) -> Counter[str]:
    """Let torch count a pass, by part."""
    body: Any = model.body
    ids = torch.ones(B, T, dtype=torch.int64)
    with FlopCounterMode(display=False, depth=10) as counter, torch.no_grad():
        if model.family.encoder_decoder:
            body(input_ids=ids, decoder_input_ids=ids[:, :SLOTS], use_cache=False)
        else:
            body(input_ids=ids)
    counts = counter.get_flop_counts()
    names = {module: f"{type(body).__name__}.{name}" for name, module in body.named_modules()}
    found: Counter[str] = Counter()
    for layer in model.layers:
        paths = (*layer.stack.attention, *(p for group in layer.stack.projections for p in group))
        found["projections"] += sum(
            sum(counts[names[layer.module(body, path)]].values()) for path in paths
        )
        matrices = (layer.key(body), layer.up(body), layer.module(body, layer.stack.value))
        found["ffn"] += sum(sum(counts[names[m]].values()) for m in matrices if m is not None)
    found["scores"] = counts["Global"][torch.ops.aten.bmm]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_flop_are_those_that_torch_counts(family: str) -> None:
    model = pyengine.load((tiny_model(family, attn_implementation="eager"), None))
    slots = [SLOTS] * B if model.family.encoder_decoder else None
    costs = BodyShape.of(model.hf).costs([T] * B, slots, every_pair=True)
    assert {part: costs[part].flops for part in ("ffn", "projections", "scores")} == counted(model)
    assert costs["activation"].flops == costs["norms"].flops == 0


def published(name: str) -> BodyShape:
    """Build a published model's shape without its weights."""
    kinds: dict[str, tuple[Any, Any]] = {
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config()),
        "gpt2-xl": (
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config(n_embd=1600, n_layer=48, n_head=25),
        ),
        "gpt-neo-125m": (
            transformers.GPTNeoForCausalLM,
            transformers.GPTNeoConfig(
                hidden_size=768,
                num_layers=12,
                num_heads=12,
                attention_types=[[["global", "local"], 6]],
            ),
        ),
        "bert-base": (transformers.BertForMaskedLM, transformers.BertConfig()),
        "t5-small": (transformers.T5ForConditionalGeneration, transformers.T5Config()),
    }
    build, config = kinds[name]
    with torch.device("meta"):
        return BodyShape.of(build(config))


@pytest.mark.parametrize(
    ("name", "window", "decoder", "mflop"),
    [
        ("gpt2", 128, False, 172),
        ("gpt2", 1024, False, 189),
        ("gpt2-xl", 128, False, 2969),
        ("bert-base", 128, False, 175),
        ("gpt-neo-125m", 1024, False, 183),
        ("t5-small", 128, False, 39),
        ("t5-small", 128, True, 92),
    ],
)
def test_published_models(name: str, window: int, decoder: bool, mflop: int) -> None:
    costs = published(name).costs([window], [window] if decoder else None)
    assert round(whole(costs).flops / window / 1e6) == mflop


def test_traffic_of_gpt2_small() -> None:
    costs = published("gpt2").costs([128])
    assert whole(costs).numbers / 128 == 38 * 768 * 12  # x 2 bytes: 700 kB
    assert round(whole(costs).numbers * 2 / 128 / 1e3) == 700
    # All of WikiText-103 on an H100: memory, and arithmetic at what it sustains.
    peak = Peak(H100["bfloat16"], 3.0e12, "")
    assert (whole(costs) * (118e6 / 128)).seconds(peak, 2) == pytest.approx(27.5, abs=0.05)
    computing = Cost(whole(costs).flops * 118e6 / 128)
    assert computing.seconds(peak, 2) == pytest.approx(25.4, abs=0.05)


def test_cost_of_units_is_the_sum_of_theirs() -> None:
    shape = published("gpt-neo-125m")
    lengths = [1, 3, 256, 257, 900]
    together = shape.costs(lengths)
    apart = [shape.costs([n]) for n in lengths]
    assert together == {part: sum((c[part] for c in apart), Cost()) for part in PARTS}
    # A local position sees itself and the 255 before: counted by hand.
    seen = sum(min(i + 1, 256) + (i + 1) for n in lengths for i in range(n))
    assert together["scores"].flops == 4 * 768 * 6 * seen


def test_seconds_are_those_of_the_scarcer_resource() -> None:
    cost, peak = Cost(flops=100, numbers=10), Peak(50, 20, "")
    assert cost.seconds(peak, 2) == 2.0
    assert (cost * 2 + Cost(numbers=80)).seconds(peak, 4) == 20.0


def test_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "MATRIX", {"cpu": 256})
    monkeypatch.setattr(peaks, "COPY", {"cpu": 1 << 16})
    cpu = torch.device("cpu")
    assert sustained_peak(cpu, "float32") is None
    peak = measured_peak(cpu, "float32")
    assert Peak(2, 5, "a").best(Peak(3, 4, "b")) == Peak(3, 5, "a")
    assert peak.flops > 1e8 and peak.bytes > 1e7 and re.search("measured", peak.source)


@pytest.mark.gpu
def test_sustained_peak_of_a_gpu() -> None:
    device = torch.device("cuda")
    peak = sustained_peak(device, "bfloat16")
    assert peak is None or peak.flops == H100["bfloat16"]
    assert np.isfinite(measured_peak(device, "bfloat16").flops)

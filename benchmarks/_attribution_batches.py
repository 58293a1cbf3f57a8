"""Many prompts in one call, beside a call for each; `adaptive`, ours only."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyengine
from benchmarks._attribution_common import (
    FAMILIES,
    SMALL,
    Case,
    Scale,
    base,
    difference,
    known,
    prompt_lengths,
    small,
)
from benchmarks._values_common import Cost, Found, Line, cost, duration, verdict

AT_LEAST = 1.0  # times as fast, in CPU time


def measure(scale: Scale) -> Found:
    """Compare on models of real size once, on small ones in several rounds."""
    lines: list[Line] = []
    figures: dict[str, Any] = {}
    for family in FAMILIES:
        case = base(family, scale.tiny)
        prompts = ids(case, scale.dense_prompts if family == "bert" else scale.prompts)
        line, figures[case.name] = compare(case, prompts, [0] * len(prompts), 1)
        lines.append(line)
    for family in SMALL:
        case = small(family)
        texts, targets = zip(*known(family, scale.prompts), strict=True)
        line, figures[case.name] = compare(case, texts, targets, scale.rounds)
        lines.append(line)
    return lines, figures


def ids(case: Case, n: int) -> list[list[int]]:
    """Draw prompts of token ids, in BERT with the mask in the middle."""
    rng, vocab = np.random.default_rng(0), case.hf.config.vocab_size
    prompts = [rng.integers(100, vocab, length).tolist() for length in prompt_lengths(n)]
    if case.family == "bert":
        tokenizer = case.tokenizer
        for prompt in prompts:
            prompt[0], prompt[-1] = tokenizer.cls_token_id, tokenizer.sep_token_id
            prompt[len(prompt) // 2] = tokenizer.mask_token_id
    return prompts


def compare(
    case: Case, prompts: Sequence[Any], targets: Sequence[Any], rounds: int
) -> tuple[Line, dict[str, Any]]:
    """Time one call and many, in turn."""
    kn = case.ours()
    kn.attribute([prompts[0]], [targets[0]])
    costs: dict[str, list[Cost]] = {"batched": [], "single": []}
    for _ in range(rounds):
        spent, together = cost(partial(kn.attribute, prompts, targets))
        costs["batched"].append(spent)
        spent, apart = cost(partial(_one_by_one, kn, prompts, targets))
        costs["single"].append(spent)
    batched, single = (
        Cost(*(statistics.median(column) for column in zip(*spent, strict=True)))
        for spent in (costs["batched"], costs["single"])
    )
    ratio, n = single.cpu_s / batched.cpu_s, len(prompts)
    off = max(difference(one, other) for one, other in zip(together.scores, apart, strict=True))
    line = Line(
        f"{case.name}, {n} prompts in one call",
        f"CPU {duration(batched.cpu_s)}",
        f"{n} calls: CPU {duration(single.cpu_s)}; scores differ by {off:.1e}",
        f"{ratio:.2f} x",
        f"> {AT_LEAST:g} x",
        verdict(ratio > AT_LEAST),
    )
    figures = {"batched": batched._asdict(), "single": single._asdict()}
    return line, figures | {"prompts": n, "cpu_ratio": ratio, "difference": off}


def _one_by_one(
    kn: pyengine.KnowledgeNeurons, prompts: Sequence[Any], targets: Sequence[Any]
) -> Tensor:
    pairs = zip(prompts, targets, strict=True)
    return torch.cat([kn.attribute([prompt], [target]).scores for prompt, target in pairs])

"""Eager attention against torch's scaled dot product, per family, as the corpus pass runs them.

    python -m benchmarks attention --save cpu-attention     # two minutes
    python -m benchmarks attention --tokens 512 --rounds 1  # writes nothing

One process, one thread, two layers of the usual width with random weights, in float32: batches of
rows that are padded by a few tokens. The implementations take turns; medians of the CPU time.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pyengine
from benchmarks._machine import write_result
from pyengine.attention_masks import GIVEN
from pyengine.batches import Batch
from pyengine.forward import Forward
from pyengine.models import Model

SIZES: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt2": (transformers.GPT2LMHeadModel, {"n_layer": 2}),
    "bert": (transformers.BertForMaskedLM, {"num_hidden_layers": 2}),
    "t5": (transformers.T5ForConditionalGeneration, {"num_layers": 2, "decoder_start_token_id": 0}),
}
LENGTHS = (16, 32, 128, 512)


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tokens", type=int, default=2048, help="of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for family in SIZES:
        models = {how: _model(family, how) for how in GIVEN}
        for length in LENGTHS:
            batch = _batch(max(1, options.tokens // length), length)
            found = _seconds(models, batch, options.rounds)
            figures[f"{family}, {length} tokens"] = found
            eager, sdpa = (found[how]["median_s"] for how in GIVEN)
            print(f"{family:5} {length:4} tokens: eager {eager:.3f} s, sdpa {sdpa / eager:.2f} x")
    if options.save:
        command = " ".join(["python -m benchmarks attention", *argv])
        print(f"wrote {write_result(options.save, figures, command)}")


def _model(family: str, how: str) -> Model:
    torch.manual_seed(0)
    kind, sizes = SIZES[family]
    hf = kind(kind.config_class(**sizes, attn_implementation=how))
    return pyengine.load((hf.eval(), None))


def _batch(n_rows: int, length: int) -> Batch:
    lengths = length - np.arange(n_rows, dtype=np.int32) % 3
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask > 0, np.arange(mask.size).reshape(mask.shape), -1)
    tokens = np.random.default_rng(0).integers(8, 1000, mask.shape) * mask
    return Batch(tokens, mask, ids, np.arange(n_rows), lengths, 0, 0)


@torch.inference_mode()
def _seconds(models: dict[str, Model], batch: Batch, rounds: int) -> dict[str, Any]:
    decoder = batch.shifted(0) if next(iter(models.values())).family.encoder_decoder else None
    forwards = {how: Forward(model) for how, model in models.items()}
    spent: dict[str, list[float]] = {how: [] for how in models}
    for number in range(rounds + 1):  # the first one warms up
        for how, forward in forwards.items():
            began = time.process_time()
            forward.run(batch, decoder)
            if number:
                spent[how].append(time.process_time() - began)
    return {
        how: {"median_s": statistics.median(times), "rounds_s": times}
        for how, times in spent.items()
    }


@pytest.mark.parametrize("how", GIVEN)
@pytest.mark.parametrize("family", SIZES)
def test_forward(benchmark: Any, family: str, how: str) -> None:
    """A batch of 16 tokens, as pytest-benchmark sees it."""
    models, batch = {how: _model(family, how)}, _batch(1, 16)
    assert benchmark(lambda: _seconds(models, batch, 1))

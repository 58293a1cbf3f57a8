"""What extraction costs above the bare forward pass, ours and others', on the same token ids.

    python -m benchmarks peers --save cpu-peers               # 25 minutes
    python -m benchmarks peers --families gpt2 --only "ff-layers' search" --rounds 1
    pytest benchmarks/peers.py                                # pytest-benchmark, small models

One process, one thread, models of the usual sizes with random weights, in float32. The cases take
turns, several rounds. Targets in CPU time of the body's forward pass: the best tokens of all layers
within 1.05 times with the model's own activations, 0.92 with GPT-2's fused; one layer cached within
the fraction of the model that was run, counted in FLOP of the blocks begun. In that of others: 1.7
times as fast as TransformerLens with `torch.topk`, 1.2 times as fast as nnsight. A target is
undecided where the limit lies between the least and the greatest of the rounds. All must find the
same (where scores are equal, any of the ids): scores that differ by more than 1e-4 make the exit
code 1. ff-layers' search, and storing every activation above 0 as delphi does, get two batches, and
are held to ours on these.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from benchmarks._machine import write_result
from benchmarks._peers_common import NAMES, Scale, Setting
from benchmarks._peers_pyengine import QUARTERS
from benchmarks._peers_rounds import CASES, NNSIGHT, TRANSFORMER_LENS, wrong
from benchmarks._peers_targets import measure
from benchmarks._values_common import Found
from benchmarks.values import show

FULL = Scale()
TOY = Scale(sequences=6, length=12, batch=2, k=3, rounds=1, tiny=True)
PACKAGES = {TRANSFORMER_LENS: "transformer-lens", NNSIGHT: "nnsight"}


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--families", nargs="+", default=[*NAMES], choices=NAMES)
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--sequences", type=int, default=FULL.sequences)
    parser.add_argument("--length", type=int, default=FULL.length, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, default=FULL.batch, help="sequences of a batch")
    parser.add_argument("-k", type=int, default=FULL.k, help="examples per key")
    parser.add_argument(
        "--only", nargs="+", default=[*CASES], choices=CASES, metavar="CASE", help="; ".join(CASES)
    )
    parser.add_argument("--tiny", action="store_true", help="small models: do the answers agree?")
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    options = vars(parser.parse_args(argv))
    families, cases, save = (options.pop(name) for name in ("families", "only", "save"))
    scale = Scale(**options)
    if scale.length % QUARTERS:
        parser.error(f"--length {scale.length} cannot be cut into {QUARTERS} sentences")
    if scale.k > scale.sliced * QUARTERS:
        parser.error(f"k = {scale.k} is more than the {QUARTERS} x {scale.sliced} sentences cut")
    versions = {name: version(name) for case, name in PACKAGES.items() if case in cases}
    torch.set_num_threads(1)
    found = {family: measure(family, scale, cases) for family in families}
    show(found)
    if save:
        results = {family: result for family, (_, result) in found.items()}
        command = " ".join(["python -m benchmarks peers", *argv])
        print(f"wrote {write_result(save, {**results, 'versions': versions}, command)}")
    sys.exit(int(failed(found)))


def failed(found: dict[str, Found]) -> bool:
    """Return whether any answer is wrong; a missed target is none."""
    return any(wrong(case) for _, result in found.values() for case in result["cases"].values())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", NAMES)
def test_case(benchmark: Any, family: str, name: str) -> None:
    if name in PACKAGES and find_spec(PACKAGES[name].replace("-", "_")) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    setting = Setting.of(family, TOY)
    benchmark(CASES[name].prepare(setting), setting.ids)

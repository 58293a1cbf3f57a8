"""What heads know: probing all of them at once, extracting their vectors, and the memory of it.

    python -m benchmarks heads               # 144 heads x 4 regularisers, 10,000 sentences
    python -m benchmarks heads --quick       # less of it, rough figures
    python -m benchmarks heads --only probe
    python -m benchmarks heads --only real --data DIR    # DIR: SentEval's data
    pytest benchmarks/heads.py               # pytest-benchmark, small sizes

Targets: all probes in an eighth of the CPU time that SentEval's procedure takes for them one by
one, on as many threads; vectors extracted in at most 1.05 headless model passes over the sentences;
memory of probing at most 1.5 x that of the formula. `real` probes every head of the trained small
models on TREC and SST-2 as published; it is left out where no data is given. Runs on the CPU.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks._heads_common import Scale
from benchmarks._heads_probe import procedure
from benchmarks._heads_real import inputs
from benchmarks._machine import write_result
from benchmarks._parts import chosen, measured
from benchmarks.values import show
from pyengine.heads.probe.protocols import probe_classes
from pyengine.heads.task import SPLIT

REAL = "real"
PARTS = {
    "probe": "benchmarks._heads_probe",
    "extract": "benchmarks._heads_extract",
    "memory": "benchmarks._heads_memory",
    REAL: "benchmarks._heads_real",
}
FULL = Scale()
QUICK = replace(FULL, n_train=2_000, n_dev=500, n_test=500, peer_heads=2, sentences=400)
TOY = Scale(
    n_train=120,
    n_dev=40,
    n_test=40,
    heads=4,
    width=8,
    n_classes=3,
    peer_heads=2,
    sentences=24,
    vocab=301,
    tiny=True,
)


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks heads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer sentences: rough figures")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: no figures at all")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--data", metavar="DIR", help="SentEval's data, for the part real")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: every core")
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    options = parser.parse_args(argv)
    parts = chosen(options.only, PARTS, parser)
    if REAL in parts and options.data is None:
        parts.remove(REAL)
        print(f"{REAL}: left out, it needs SentEval's data (--data DIR)", file=sys.stderr)
    torch.set_num_threads(options.threads)
    scale = TOY if options.tiny else QUICK if options.quick else FULL
    scale = replace(scale, data=options.data)
    found = measured(parts, PARTS, scale)
    show(found)
    if options.save:
        command = " ".join(["python -m benchmarks heads", *argv])
        command = command.replace(options.data, "DIR") if options.data else command
        figures = {part: result for part, (_, result) in found.items()}
        read = inputs(options.data) if REAL in found else ()
        print(f"wrote {write_result(options.save, figures, command, read)}")


@pytest.mark.parametrize("way", ["one by one", "at once"])
def test_probe(benchmark: Any, way: str) -> None:
    scale = replace(TOY, n_train=600)
    x, parts = scale.drawn()
    if way == "at once":
        benchmark(probe_classes, x, parts, scale.n_classes, SPLIT)
    else:
        heads = range(scale.heads)
        benchmark(lambda: [procedure(scale, x, parts, head) for head in heads])

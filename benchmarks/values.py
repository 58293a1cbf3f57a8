"""What each value writes: vocabulary projection, layer and value predictions, beside their peers.

    python -m benchmarks values                  # GPT-2 small, random weights; minutes
    python -m benchmarks values --quick          # less of it
    python -m benchmarks values --rows 36864     # every value of GPT-2 small
    pytest benchmarks/values.py                  # pytest-benchmark, a small model

Targets: the projection at least as fast as torch on blocks of 2,048 rows of logits, with at most a
fifth of its memory; layer predictions at least 20 times as fast as ff-layers' procedure. A ratio is
the worse of those of clock and CPU time. Runs on the CPU.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

import pyengine
from benchmarks._ff_layers_procedure import Procedure
from benchmarks._machine import machine, write_result
from benchmarks._parts import chosen, measured
from benchmarks._values_agreement import inputs, ways
from benchmarks._values_common import Found, Line, Scale
from benchmarks.triggers import random_model, sentences

PARTS = {
    "agreement": "benchmarks._values_agreement",
    "predictions": "benchmarks._values_predictions",
}
FULL = Scale()
QUICK = replace(
    FULL,
    rows=2_048,
    targets=(1,),
    units=60,
    original_units=1,
    dims=8,
    trigger_units=60,
    value_units=60,
    all_value_units=3,
)
TOY = Scale(
    vocab=997,
    width=16,
    rows=40,
    targets=(1, 3),
    blocks=(16, 8),
    rounds=1,
    units=6,
    original_units=2,
    dims=5,
    trigger_units=3,
    value_units=3,
    all_value_units=2,
    tiny=True,
)


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks values",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rows and sentences: rough figures"
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rows", type=int, help="values to project")
    parser.add_argument("--units", type=int, help="sentences of the layer predictions")
    parser.add_argument("--original-units", type=int, help="sentences of the original's procedure")
    parser.add_argument("--corpus", type=Path, help="a WikiText .tokens file")
    parser.add_argument("--rounds", type=int, help="repetitions of a projection")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: every core")
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    options = parser.parse_args(argv)
    parts = chosen(options.only, PARTS, parser)
    names = ("rows", "units", "original_units", "corpus", "rounds")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    torch.set_num_threads(options.threads)
    found = measured(parts, PARTS, replace(QUICK if options.quick else FULL, **given))
    show(found)
    if options.save:
        command = " ".join(["python -m benchmarks values", *argv])
        figures = {part: result for part, (_, result) in found.items()}
        inputs = [options.corpus] if options.corpus else []
        print(f"wrote {write_result(options.save, figures, command, inputs)}")


def show(found: dict[str, Found]) -> None:
    """Print one table of all parts."""
    facts = machine()
    title = f"{facts['cpu']}, {facts['threads']} threads, {facts['versions']}"
    table = Table(title=f"{title}, commit {facts['commit']}", title_justify="left")
    for column in Line._fields:
        table.add_column(column, overflow="fold")
    colours = {"met": "green", "missed": "yellow"}
    for lines, _ in found.values():
        table.add_section()
        for line in lines:
            table.add_row(*line, style=colours.get(line.verdict))
    Console(width=None if sys.stdout.isatty() else 200).print(table, markup=False)


@pytest.mark.parametrize("way", list(ways(TOY)))
def test_projection(benchmark: Any, way: str) -> None:
    benchmark(ways(TOY)[way], *inputs(TOY, 3))


@pytest.mark.parametrize("way", ["pyengine", "procedure", "without waste", "values once"])
def test_layer_predictions(benchmark: Any, way: str) -> None:
    store = sentences(4)
    model = random_model("gpt2", int(store.tokens.max()) + 1, tiny=True)
    if way == "pyengine":
        benchmark(pyengine.ffn_predictions, model, store)
        return
    tops = Procedure(model.hf).values_once() if way == "values once" else None
    procedure = Procedure(model.hf, waste=way == "procedure", top_tokens=tops)
    units = [store.unit_tokens(unit) for unit in range(store.n_units)]
    benchmark(procedure.layers, units, [0] * len(units))

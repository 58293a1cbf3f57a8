"""Everything that needs a GPU: its tests, the kernels, the search, exactness. One command.

    python -m benchmarks gpu --save gpu-h100     # the whole of it
    python -m benchmarks gpu --quick             # less of it, and nothing is written
    python -m benchmarks gpu --only kernels,search
    python -m benchmarks gpu --only corpus --families gpt2 --save gpu-h100-corpus

Prints one table beside the floors and targets; `render` shows what is saved under names that begin
with gpu-. Every part runs in a process of its own, every measurement on its own: what fails is
reported, the rest still runs, and the exit code is then 1. A missed speed is no failure.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import _gpu_search
from benchmarks._gpu_common import Found, Job, Line, Scale, attempt
from benchmarks._machine import machine, write_result

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "tests": "benchmarks.gpu",
    "kernels": "benchmarks._gpu_kernels",
    "vocab": "benchmarks._gpu_vocab",
    "search": "benchmarks._gpu_search",
    "exactness": "benchmarks._gpu_exactness",
    "attribution": "benchmarks._gpu_attribution",
    "corpus": "benchmarks._gpu_corpus",
    "peers": "benchmarks._gpu_peers",
    "shortcuts": "benchmarks._gpu_shortcuts",
    "heads": "benchmarks._gpu_heads",
}
FULL = Scale()
QUICK = replace(
    FULL,
    batch_tokens=(8192,),
    widths=(3072,),
    rounds=10,
    families=("gpt2",),
    tokens=(("bfloat16", 600_000), ("float32", 100_000)),
    search_rounds=1,
    sample_tokens=10_000,
    corpus_tokens=5_000_000,
    family_tokens=1_000_000,
    tests=("-k", "real_sizes or overflow or wait or gelu_tanh"),
)


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer models, sizes and rounds")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--families", nargs="+", choices=FULL.families, help="models to search")
    parser.add_argument(
        "--tokens",
        type=int,
        help="at most so many in search (2M, 0.3M in float32) and corpus (118M, 5M a family)",
    )
    parser.add_argument("--corpus", type=Path, help="WikiText file of the part corpus (drawn)")
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    options = parser.parse_args(argv)
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        sys.exit("python -m benchmarks gpu needs a CUDA device, and torch sees none")
    scale = QUICK if options.quick else FULL
    if options.families:
        scale = replace(scale, families=tuple(options.families))
    if options.tokens:
        scale = scale.at_most(options.tokens)
    scale = replace(scale, corpus=options.corpus)
    found = {part: isolated(part, scale) for part in parts}
    show(found)
    if options.save:
        command = " ".join(["python -m benchmarks gpu", *argv])
        figures = {part: result for part, (_, result) in found.items()}
        inputs = [options.corpus] if options.corpus else []
        print(f"wrote {write_result(options.save, figures, command, inputs)}")
    sys.exit(int(failed(found)))


def isolated(part: str, scale: Scale) -> Found:
    """Run a part in its own process: an illegal memory access ends all that follows it there."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as worker:
        return attempt((part, lambda: worker.submit(run_part, part, scale).result()))


def run_part(part: str, scale: Scale) -> Found:
    """Run the jobs of a part one by one."""
    lines: list[Line] = []
    figures: dict[str, Any] = {}
    for job in importlib.import_module(PARTS[part]).jobs(scale):
        more, figures[job[0]] = attempt(job)
        lines += more
    return lines, figures


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield the one job of the part `tests`."""
    yield "GPU tests", lambda: run_tests(["-m", "gpu", "tests", *scale.tests])


def run_tests(arguments: Sequence[str]) -> Found:
    """Run pytest in the repository; tests that fail, or that are all skipped, fail the job."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    hidden = ("TRITON_INTERPRET", "PYENGINE_BACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    output = done.stdout.splitlines()
    summary = output[-1].strip("= ") if output else "no output"
    good = done.returncode == 0 and re.search(r"\b\d+ passed", summary) is not None
    if not good:
        print(done.stdout, file=sys.stderr)
    line = Line("GPU tests", summary, "", "all pass", "ok" if good else "FAILED")
    return [line], {"summary": summary, "exit_code": done.returncode, "output": output}


@pytest.mark.parametrize("way", ["fused forward", "capture only", "search, warm", "pyengine"])
def test_search(benchmark: Any, way: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _gpu_search.build("gpt2", "float32", device, tiny=True)
    benchmark(_gpu_search.GpuWays(model, _gpu_search.corpus(1000), 10, 512).all()[way])


def failed(found: dict[str, Found]) -> bool:
    """Return whether anything failed."""
    return any(line.verdict == "FAILED" for lines, _ in found.values() for line in lines)


def show(found: dict[str, Found]) -> None:
    """Print one table of all parts."""
    facts = machine()
    title = f"{facts.get('gpu', facts['cpu'])}, {facts['versions']}, commit {facts['commit']}"
    table = Table(title=title, title_justify="left")
    for column in ("what", "measured", "floor", "target", "verdict"):
        table.add_column(column, overflow="fold")
    colours = {"met": "green", "ok": "green", "missed": "yellow", "FAILED": "red"}
    for lines, _ in found.values():
        table.add_section()
        for line in lines:
            table.add_row(*line, style=colours.get(line.verdict))
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)

"""Linear shortcuts between layers: solving all maps, scoring them, and the memory of a fit.

    python -m benchmarks shortcuts               # GPT-2 small, random weights, 12,000 sentences
    python -m benchmarks shortcuts --quick       # less of it, rough figures
    python -m benchmarks shortcuts --only solve
    pytest benchmarks/shortcuts.py               # pytest-benchmark, small sizes

Targets: all 78 maps in a twentieth of the time that LAPACK's SVD least squares (scikit-learn's)
takes for them one by one; scores of id, mat, affine and early exit in at most 1.3 headless model
passes over the sentences of the fit; memory of a fit above that pass at most twice its states'. A
ratio is the worse of those of clock and CPU time. Runs on the CPU.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks._machine import write_result
from benchmarks._parts import chosen, measured
from benchmarks._shortcuts_common import Scale
from benchmarks._shortcuts_solve import by_gram, by_rows, gelsd
from benchmarks.values import show
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.fit import fit_shortcuts

PARTS = {
    "solve": "benchmarks._shortcuts_solve",
    "evaluate": "benchmarks._shortcuts_evaluate",
    "memory": "benchmarks._shortcuts_memory",
}
FULL = Scale()
QUICK = replace(
    FULL, n_train=2_000, n_validation=500, peer_pairs=1, sub_train=400, sub_validation=40
)
TOY = Scale(
    n_train=200,
    n_validation=50,
    vocab=301,
    peer_pairs=2,
    sub_train=100,
    sub_validation=20,
    tiny=True,
)


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks shortcuts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer sentences: rough figures")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: no figures at all")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: every core")
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    options = parser.parse_args(argv)
    parts = chosen(options.only, PARTS, parser)
    torch.set_num_threads(options.threads)
    scale = TOY if options.tiny else QUICK if options.quick else FULL
    found = measured(parts, PARTS, scale)
    show(found)
    if options.save:
        command = " ".join(["python -m benchmarks shortcuts", *argv])
        figures = {part: result for part, (_, result) in found.items()}
        print(f"wrote {write_result(options.save, figures, command)}")


@pytest.mark.parametrize("way", ["rows", "gram", "gelsd"])
def test_solve(benchmark: Any, way: str) -> None:
    states = torch.randn(600, 4, 64, generator=torch.Generator().manual_seed(0))
    pairs = [(i, j) for i in range(3) for j in range(i + 1, 4)]
    solvers = {
        "rows": by_rows,
        "gram": by_gram,
        "gelsd": lambda states, pairs: [gelsd(states, pair) for pair in pairs],
    }
    benchmark(solvers[way], states, pairs)


@pytest.mark.parametrize("what", ["fit", "evaluate"])
def test_fit_and_scores(benchmark: Any, what: str) -> None:
    model, store = TOY.model(), TOY.store(TOY.n_train + TOY.n_validation)
    if what == "fit":
        benchmark(fit_shortcuts, model, store, **TOY.drawn())
        return
    benchmark(evaluate, fit_shortcuts(model, store, **TOY.drawn()), model, bootstrap=10)

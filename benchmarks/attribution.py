"""Which neurons an answer is attributed to, beside the package knowledge-neurons 0.0.2.

    python -m benchmarks attribution --save cpu-attribution     # the whole of it: ten minutes
    python -m benchmarks attribution --quick                    # less of it, and nothing is written
    python -m benchmarks attribution --only accuracy,memory

The same process, thread, model and tokenizer for both, 20 steps. Targets in CPU time of the
package: the same rule at least 2.5 times as fast for BERT and 12 times for GPT-2, `adaptive` 6 and
30 times; its error below the package's where a model knows something; many prompts in one call
faster than one by one; less memory than the package. Runs on the CPU.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks._attribution_common import (
    ADAPTIVE,
    FAMILIES,
    PACKAGE,
    SAME_RULE,
    Scale,
    base,
    question,
)
from benchmarks._attribution_speed import timed
from benchmarks._machine import write_result
from benchmarks._parts import chosen, measured
from benchmarks.values import show

PARTS = {
    part: f"benchmarks._attribution_{part}" for part in ("speed", "accuracy", "batches", "memory")
}
FULL = Scale()
QUICK = replace(
    FULL, lengths=(12,), rounds=1, package_rounds=(1,), facts=10, prompts=16, dense_prompts=4
)
TOY = Scale(
    steps=4,
    lengths=(12, 14),
    rounds=1,
    package_rounds=(1, 1),
    facts=2,
    reference_nodes=16,
    prompts=3,
    dense_prompts=2,
    tiny=True,
)


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks attribution",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="short prompts, one round: rough figures"
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    options = parser.parse_args(argv)
    parts = chosen(options.only, PARTS, parser)
    torch.set_num_threads(options.threads)
    found = measured(parts, PARTS, QUICK if options.quick else FULL)
    show(found)
    if options.save:
        command = " ".join(["python -m benchmarks attribution", *argv])
        figures = {part: result for part, (_, result) in found.items()}
        print(f"wrote {write_result(options.save, figures, command)}")


@pytest.mark.parametrize("way", [PACKAGE, SAME_RULE, ADAPTIVE])
@pytest.mark.parametrize("family", FAMILIES)
def test_question(benchmark: Any, family: str, way: str) -> None:
    case = base(family, tiny=True)
    benchmark(timed(case, TOY.steps)[way], question(case, TOY.lengths[0]))

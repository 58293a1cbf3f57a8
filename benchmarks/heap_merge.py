"""The C++ merge of shards against torch.topk on packed keys and against a pairwise fold.

    python -m benchmarks heap_merge                  # 8 shards x 36,864 keys x 50, one thread
    python -m benchmarks heap_merge --shards 1000    # from files, against a bound of the memory
    pytest benchmarks/heap_merge.py                  # pytest-benchmark, fewer keys

All three give the same entries. Floor: every entry read once, n_shards * n_keys * k * 12 bytes.
More than 64 shards are not compared in memory but merged from files (benchmarks/_merge_files.py).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import _merge_files
from benchmarks._machine import machine, write_result
from pyengine.merge import merge_heaps
from pyengine.packed import pack, unpack

IN_MEMORY = 64
Heaps = tuple[np.ndarray, np.ndarray]  # scores float32, ids int64; both [n_keys, k], best first


def random_shards(n_shards: int, n_keys: int, k: int) -> list[Heaps]:
    """Draw the heaps of shards, each with ids of its own."""
    rng = np.random.default_rng(0)
    shards = []
    for shard in range(n_shards):
        scores = -np.sort(-rng.standard_normal((n_keys, k), dtype=np.float32), axis=1)
        # Ascending, so that equal scores are in order.
        ids = np.tile(np.arange(k) + shard * k, (n_keys, 1))
        shards.append((scores, ids))
    return shards


def ways(shards: list[Heaps], k: int) -> dict[str, Callable[[], Heaps]]:
    """Return the ways by name; torch.topk starts from keys that are already packed."""
    packed = torch.cat([pack(torch.from_numpy(s), torch.from_numpy(i)) for s, i in shards], dim=1)

    def pair(a: Heaps, b: Heaps) -> Heaps:
        return merge_heaps([a[0], b[0]], [a[1], b[1]], k, n_threads=1)

    def topk() -> Heaps:
        scores, ids = unpack(packed.topk(k, dim=1).values)
        return scores.numpy(), ids.numpy()

    scores, ids = [s for s, _ in shards], [i for _, i in shards]
    return {
        "merge_heaps": lambda: merge_heaps(scores, ids, k, n_threads=1),
        "pairwise fold": lambda: reduce(pair, shards),
        "torch.topk": topk,
    }


def measure(n_shards: int, n_keys: int, k: int, rounds: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each way, and check that they agree."""
    runs = ways(random_shards(n_shards, n_keys, k), k)
    expected = runs["merge_heaps"]()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            found = run()
            times[name].append((time.process_time() - start) * 1e3)
            if not all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)):
                raise RuntimeError(f"{name} disagrees with merge_heaps")
    return {name: statistics.median(times[name]) for name in runs}


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks heap_merge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--keys", type=int, default=36_864)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=20, help="distinct files, above 64 shards")
    parser.add_argument("--save", help="name of the file under benchmarks/results/")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(machine())
    sizes = {"shards": options.shards, "keys": options.keys, "k": options.k}
    if options.shards <= IN_MEMORY:
        figures = _compared(options.rounds, **sizes)
    else:
        figures = _from_files(options.files, **sizes)
    if options.save:
        command = " ".join(["python -m benchmarks heap_merge", *argv])
        print(f"wrote {write_result(options.save, figures | sizes, command)}")


def _compared(rounds: int, shards: int, keys: int, k: int) -> dict[str, Any]:
    medians = measure(shards, keys, k, rounds)
    n_bytes = shards * keys * k * 12
    for name, milliseconds in medians.items():
        print(f"{name:14s}{milliseconds:9.1f} CPU ms{n_bytes / milliseconds / 1e6:8.2f} GB/s")
    return {"cpu_ms": medians}


def _from_files(files: int, shards: int, keys: int, k: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        _merge_files.write_shards(Path(folder), shards, files, keys, k)
        found = _merge_files.measure(Path(folder), n_threads=1)
    print(*_merge_files.lines(found), sep="\n")
    return found | {"files": files}


@pytest.mark.parametrize("way", ["merge_heaps", "pairwise fold", "torch.topk"])
def test_merge(benchmark: Any, way: str) -> None:
    benchmark(ways(random_shards(8, 512, 50), 50)[way])

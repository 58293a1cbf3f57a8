"""The merge of very many shard files, in a process of its own, against a bound of its memory.

The files are few and hard-linked to as many names as are asked for, so that no disk is filled.
Their records cannot cover one corpus, so what runs is all of a merge but that check: read, verify,
merge, and collect the units in the end.

What may be held at once, in states (12 bytes per key and kept entry): while a file is read, the
merged state, the file as it is mapped and as it is copied; while two are merged, both and the
result; in the end the merged state, and as 8 bytes per entry its ids four times (all of them,
those that are filled, sorted, distinct). 3.7 states, so 4, one table as it is read, and the
resulting table twice (its parts, and their concatenation).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._values_agreement import CLEAR, process_status
from pyengine.extraction.states import merge_heap_arrays
from pyengine.shards import Shard, ShardMerge, load_shard, save_shard
from pyengine.units import UnitTable

# A thousandth of WikiText-103.
SHARD_TOKENS = 118_000
UNIT_TOKENS = 25
# Per entry: a float32 score and an int64 id.
ENTRY_BYTES = 12


def write_shards(folder: Path, n_shards: int, n_files: int, n_keys: int, k: int) -> None:
    """Write the first shards of a corpus, and link them to the other names."""
    files = [folder / f"file-{index:03d}.safetensors" for index in range(min(n_files, n_shards))]
    for index, file in enumerate(files):
        save_shard(file, _random_shard(index, n_keys, k))
    for shard in range(n_shards):
        os.link(files[shard % len(files)], folder / f"{shard:05d}-of-{n_shards:05d}.safetensors")


def measure(folder: Path, n_threads: int) -> dict[str, Any]:
    """Merge the shards of a folder in a fresh process; return what it took."""
    code = "import sys; from benchmarks._merge_files import _print as p; p(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(folder), str(n_threads)]
    found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    found["bound_bytes"] = 4 * found["state_bytes"] + found["table_bytes"] + 2 * found["out_bytes"]
    return found


def lines(found: dict[str, Any]) -> Sequence[str]:
    """Say what was measured."""
    n, peak, bound = found["shards"], found["peak_bytes"], found["bound_bytes"]
    each, cpu = found["seconds"] / n, found["cpu_seconds"] / n
    rate = found["state_bytes"] / cpu / 1e9
    return (
        f"{n:,} shard files: {each * 1e3:.0f} ms each; {cpu * 1e3:.0f} ms of CPU time, "
        f"{rate:.2f} GB/s of entries read once",
        f"units in the end: {found['finish_seconds']:.1f} s",
        f"peak memory {peak / 1e6:.0f} MB above the start, bound {bound / 1e6:.0f} MB: "
        + ("held" if peak <= bound else "BROKEN"),
    )


def _random_shard(index: int, n_keys: int, k: int) -> Shard:
    rng = np.random.default_rng(index)
    scores = -np.sort(-rng.standard_normal((n_keys, k), dtype=np.float32), axis=1)
    base, n_units = index * SHARD_TOKENS, SHARD_TOKENS // UNIT_TOKENS
    # One id in each k-th of the shard: all differ, and they ascend where scores are equal.
    step = SHARD_TOKENS // k
    ids = base + np.arange(k) * step + rng.integers(0, step, (n_keys, k))
    units = index * n_units + np.arange(n_units)
    starts = np.arange(n_units + 1) * UNIT_TOKENS
    tokens = rng.integers(0, 50_257, n_units * UNIT_TOKENS).astype(np.int32)
    record = {
        "shard": index,
        "n_shards": 1,
        "units": [int(units[0]), int(units[-1]) + 1],
        "complete": True,
        "exact": True,
        "n_tokens": SHARD_TOKENS,
        "n_computed": SHARD_TOKENS,
        "n_nan": [0],
    }
    table = UnitTable(units, base + starts[:-1], starts, tokens)
    return Shard([{"max.scores": scores, "max.ids": ids}], table, record)


def _print(folder: str, n_threads: str) -> None:
    paths = sorted(Path(folder).glob("*-of-*.safetensors"))
    merge = ShardMerge([partial(merge_heap_arrays, n_threads=int(n_threads))])
    CLEAR.write_text("5")
    before, start, cpu = process_status("VmRSS"), time.perf_counter(), time.process_time()
    for path in paths:
        merge.add(path)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    whole = merge.whole(n_units=0)
    total = time.perf_counter() - start
    peak = process_status("VmHWM") - before
    table = load_shard(paths[0]).table
    assert table is not None and whole.table is not None
    figures = {
        "shards": len(paths),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "finish_seconds": total - seconds,
        "peak_bytes": peak,
        "state_bytes": ENTRY_BYTES * whole.ids.size,
        "table_bytes": _size(table),
        "out_bytes": _size(whole.table),
    }
    print(json.dumps(figures))


def _size(table: UnitTable) -> int:
    return sum(array.nbytes for array in vars(table).values())

"""Values onto the vocabulary: `vocab_project` beside blocks of logits, and the product alone.

The peers hold a block of logits and ask torch for each quantity. They take no care of equal
logits, which makes them faster: random logits hardly ever are.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._values_common import Cost, Found, Line, Scale, cost, duration, verdict
from pyengine.vocab_project import Projection, vocab_project

M = 10
SPEED, MEMORY = 1.0, 1 / 5
SQUARE = 4_096
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# fp32 products summed in another order: neighbours may swap, no more.
RANKS, LOGITS = 5, 1e-4

Inputs = tuple[Tensor, Tensor, Tensor]  # x [R, d], weight [V, d], targets int64 [R, n]
# From a block of logits and its targets to the fields of a `Projection`.
Read = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def inputs(scale: Scale, n_targets: int) -> Inputs:
    """Draw values, an embedding and targets."""
    torch.manual_seed(0)
    x = torch.randn(scale.rows, scale.width).mul_(0.02)
    weight = torch.randn(scale.vocab, scale.width).mul_(0.02)
    return x, weight, torch.randint(scale.vocab, (scale.rows, n_targets))


def by_blocks(x: Tensor, weight: Tensor, targets: Tensor, block: int, read: Read) -> Projection:
    """Do what `vocab_project` does, materialising `block` rows of logits at a time."""
    z = torch.empty(min(block, len(x)), len(weight))
    parts = []
    for first in range(0, len(x), block):
        rows = slice(first, first + block)
        logits = torch.mm(x[rows], weight.t(), out=z[: len(x[rows])])
        parts.append(read(logits, targets[rows]))
    return Projection(*(torch.cat(field) for field in zip(*parts, strict=True)))


def plainly(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Ask torch for each quantity; ranks by comparison, a row at a time, which stays in cache."""
    top = logits.topk(M, dim=1)
    lse = logits.logsumexp(1)
    entropy = lse - logits.softmax(1).mul_(logits).sum(1)
    at = logits.gather(1, targets)
    above = torch.empty(at.shape, dtype=torch.int32)
    for row, z, out in zip(logits, at, above, strict=True):
        torch.sum(row > z[:, None], 1, dtype=torch.int32, out=out)
    return top.values, top.indices, lse, entropy, at, above, logits.argmin(1)


class Lean:
    """The same with one pass less and buffers that are kept; numpy counts faster than torch."""

    def __init__(self) -> None:
        self.probs, self.higher = torch.empty(0), np.empty(0, bool)

    def __call__(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        if self.probs.shape != logits.shape:
            self.probs, self.higher = torch.empty_like(logits), np.empty(logits.shape, bool)
        top = logits.topk(M, dim=1)
        probs = torch.softmax(logits, 1, out=self.probs)
        lse = top.values[:, 0] - probs.gather(1, top.indices[:, :1])[:, 0].log()
        entropy = lse - probs.mul_(logits).sum(1)
        at = logits.gather(1, targets)
        above = [self._above(logits, column[:, None]) for column in at.unbind(1)]
        return top.values, top.indices, lse, entropy, at, torch.stack(above, 1), logits.argmin(1)

    def _above(self, logits: Tensor, column: Tensor) -> Tensor:
        np.greater(logits.numpy(), column.numpy(), out=self.higher)
        return torch.from_numpy(np.count_nonzero(self.higher, axis=1))


def ways(scale: Scale) -> dict[str, Callable[[Tensor, Tensor, Tensor], Projection]]:
    """Return the ways by name, ours first, then the one that targets are judged by."""
    plain, lean = scale.blocks
    return {
        "pyengine": lambda x, weight, targets: vocab_project(x, weight, targets=targets, m=M),
        f"torch, {plain:,} rows": partial(by_blocks, block=plain, read=plainly),
        f"torch and numpy, {lean:,} rows": partial(by_blocks, block=lean, read=Lean()),
    }


def measure(scale: Scale) -> Found:
    """Time every way, interleaved, and take medians; check that they agree; measure memory."""
    rate = sgemm_rate(scale)
    floor = 2 * scale.rows * scale.vocab * scale.width / rate
    lines = [Line("sgemm", f"{rate / 1e9:,.0f} GFLOP/s", f"floor {duration(floor)}")]
    figures: dict[str, Any] = {"sgemm_gflops": rate / 1e9, "rows": scale.rows, "floor_s": floor}
    for n_targets in scale.targets:
        costs = _medians(scale, n_targets)
        peaks = {name: peak_memory(name, scale, n_targets) for name in costs}
        lines += _lines(scale, n_targets, costs, peaks, floor)
        figures[f"{n_targets} targets"] = {
            name: costs[name]._asdict() | {"peak_bytes": peaks[name]} for name in costs
        }
    return lines, figures


def sgemm_rate(scale: Scale) -> float:
    """Return the machine's float32 FLOP/s: the better of a square product and one block's."""
    block = min(scale.rows, scale.blocks[0])
    side = min(SQUARE, scale.vocab)
    rates = []
    for rows, columns, inner in ((side, side, side), (block, scale.vocab, scale.width)):
        a, b, out = (
            torch.randn(rows, inner),
            torch.randn(columns, inner),
            torch.empty(rows, columns),
        )
        torch.mm(a, b.t(), out=out)
        seconds = [cost(partial(torch.mm, a, b.t(), out=out))[0].wall_s for _ in range(3)]
        rates.append(2 * rows * columns * inner / statistics.median(seconds))
    return max(rates)


def _medians(scale: Scale, n_targets: int) -> dict[str, Cost]:
    data, runs = inputs(scale, n_targets), ways(scale)
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for number in range(scale.rounds):
        expected: Projection | None = None
        for name, run in runs.items():
            spent, found = cost(partial(run, *data))
            costs[name].append(spent)
            expected = expected or found
            if number == 0:
                _check(name, found, expected)
    return {
        name: Cost(*(statistics.median(column) for column in zip(*spent, strict=True)))
        for name, spent in costs.items()
    }


def _check(name: str, found: Projection, expected: Projection) -> None:
    """Compare with the first way's results."""
    same = (
        (found.top_ids == expected.top_ids).float().mean() > 0.999
        and (found.bottom_ids == expected.bottom_ids).float().mean() > 0.999
        and (found.target_ranks - expected.target_ranks).abs().max() <= RANKS
        and all(
            torch.allclose(getattr(found, field), getattr(expected, field), rtol=LOGITS, atol=1e-6)
            for field in ("top_logits", "lse", "entropy", "target_logits")
        )
    )
    if not same:
        raise RuntimeError(f"{name} disagrees with the way before")


def _lines(
    scale: Scale, n_targets: int, costs: dict[str, Cost], peaks: dict[str, int], floor: float
) -> list[Line]:
    """Return a line of time and one of memory per way; the ratios are ours to it."""
    plural = "target" if n_targets == 1 else "targets"
    times = [Line(f"agreement, {scale.rows:,} values, {n_targets} {plural}")]
    memories = [Line("  peak memory above inputs and results")]
    names = list(costs)
    for number, name in enumerate(names):
        spent, beside, speed, memory = costs[name], costs[names[0]], "", ""
        judged = [("", "")] * 2
        if number:
            # The worse of clock and CPU time: neither idle cores nor a busy machine may flatter us.
            faster = min(theirs / own for theirs, own in zip(spent, beside, strict=True))
            share = peaks[names[0]] / max(peaks[name], 1)
            speed, memory = f"{faster:.2f} x", f"{share:.3f} x"
            if number == 1:
                judged[0] = f"≥ {SPEED} x", verdict(faster >= SPEED)
                judged[1] = f"≤ {MEMORY} x", verdict(share <= MEMORY)
        took = f"{duration(spent.wall_s)}, CPU {duration(spent.cpu_s)}"
        of_floor = f"{floor / spent.wall_s:.0%} of the floor's speed"
        times.append(Line(f"  {name}", took, of_floor, speed, *judged[0]))
        memories.append(
            Line(f"  {name}", f"{peaks[name] / 2**20:,.0f} MiB", "", memory, *judged[1])
        )
    return times + memories


def peak_memory(way: str, scale: Scale, n_targets: int) -> int:
    """Return the peak bytes of one call in a process of its own, above inputs and results.

    Linux only: the process resets and reads its own high-water mark.
    """
    settings = asdict(scale) | {"corpus": str(scale.corpus)}
    arguments = json.dumps([way, settings, n_targets, torch.get_num_threads()])
    code = "import sys; from benchmarks._values_agreement import _print_peak as p; p(sys.argv[1])"
    output = subprocess.check_output([sys.executable, "-c", code, arguments], text=True)
    return int(output.splitlines()[-1])


def _print_peak(arguments: str) -> None:
    way, settings, n_targets, threads = json.loads(arguments)
    torch.set_num_threads(threads)
    settings["blocks"] = tuple(settings["blocks"])
    scale = Scale(**settings)
    x, weight, targets = inputs(scale, n_targets)
    run = ways(scale)[way]
    tiny = replace(scale, rows=2, vocab=64)
    run(*inputs(tiny, n_targets))  # thread pools and libraries are not what is measured
    CLEAR.write_text("5")
    before = process_status("VmRSS")
    found = run(x, weight, targets)
    results = sum(field.nbytes for field in found)
    print(max(0, process_status("VmHWM") - before - results))


def process_status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

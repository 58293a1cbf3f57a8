"""Peak memory of one question above the loaded model, each way in a process of its own.

Linux only: the process resets and reads its own high-water mark. The package takes 10 nodes at a
time, its default, which needs less memory than the 20 that it is timed with.
"""

import json
import subprocess
import sys
from typing import Any

import torch

from benchmarks._attribution_common import (
    ADAPTIVE,
    FAMILIES,
    NAMES,
    PACKAGE,
    SAME_RULE,
    Scale,
    base,
    question,
)
from benchmarks._values_agreement import CLEAR, process_status
from benchmarks._values_common import Found, Line, verdict

BATCH_SIZE = 10


def measure(scale: Scale) -> Found:
    """Measure every way on prompts of every length."""
    lines: list[Line] = []
    figures: dict[str, Any] = {}
    for family in FAMILIES:
        for n_tokens in scale.lengths:
            what = f"{NAMES[family]}, {n_tokens} tokens"
            peaks = {
                way: peak_memory(family, way, n_tokens, scale)
                for way in (PACKAGE, SAME_RULE, ADAPTIVE)
            }
            figures[what] = peaks
            lines.append(Line(f"{what}, peak memory above the model"))
            lines += [_line(way, peak, peaks[PACKAGE]) for way, peak in peaks.items()]
    return lines, figures


def _line(way: str, peak: int, package: int) -> Line:
    line = Line(f"  {way}", f"{peak / 2**20:,.0f} MiB")
    if way == PACKAGE:
        return line
    share = peak / max(package, 1)
    return line._replace(ratio=f"{share:.2f} x", target="< 1 x", verdict=verdict(share < 1))


def peak_memory(family: str, way: str, n_tokens: int, scale: Scale) -> int:
    """Return the peak bytes of one call in a process of its own, above the loaded model."""
    settings = [family, way, n_tokens, scale.steps, scale.tiny, torch.get_num_threads()]
    code = "import sys; from benchmarks._attribution_memory import _print_peak as p; p(sys.argv[1])"
    command = [sys.executable, "-c", code, json.dumps(settings)]
    return int(subprocess.check_output(command, text=True).splitlines()[-1])


def _print_peak(arguments: str) -> None:
    family, way, n_tokens, steps, tiny, threads = json.loads(arguments)
    torch.set_num_threads(threads)
    toy = base(family, tiny=True)
    toy.ways(1)[way](question(toy, 12))  # thread pools and libraries are not what is measured
    case = base(family, tiny)
    asked, run = question(case, n_tokens), case.ways(steps, min(BATCH_SIZE, steps))[way]
    CLEAR.write_text("5")
    before = process_status("VmRSS")
    run(asked)
    print(max(0, process_status("VmHWM") - before))

"""Times of today beside those of the saved baseline: pytest-benchmark over every stem, small sizes.

    python -m benchmarks compare                       # a few minutes; prints, judges nothing
    python -m benchmarks compare triggers peers        # some stems
    python -m benchmarks compare --save                # writes benchmarks/baseline.json

Medians of the clock, one thread. A ratio means something on the baseline's machine only, and is
then still only a hint where to look: CI runs the same functions without timing them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._machine import machine
from benchmarks._values_common import duration

ROOT = Path(__file__).resolve().parents[1]
BASELINE = Path(__file__).parent / "baseline.json"
# Seconds per function: medians of many short rounds, or of five long ones.
LIMITS = ["--benchmark-max-time=0.5", "--benchmark-min-rounds=5", "--benchmark-warmup=off"]


def stems() -> list[str]:
    """List the stems that have pytest-benchmark functions."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return [file.stem for file in files if "\ndef test_" in file.read_text()]


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stems", nargs="*", metavar="STEM", help=f"some of {', '.join(stems())}")
    parser.add_argument("--save", action="store_true", help="make this the baseline")
    options = parser.parse_args(argv)
    if unknown := set(options.stems) - set(stems()):
        parser.error(f"no benchmarks in {', '.join(sorted(unknown))}; in {', '.join(stems())}")
    if options.save and options.stems:
        parser.error("a baseline holds every stem")
    found = {"machine": machine() | {"threads": 1}, "median_s": run(options.stems or stems())}
    if options.save:
        BASELINE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"wrote {BASELINE.relative_to(ROOT)}")
    else:
        show(found, json.loads(BASELINE.read_text()))


def run(chosen: Sequence[str], *arguments: str) -> dict[str, float]:
    """Run the functions of stems in one process; return the median seconds of each by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *LIMITS]
        command += [*arguments, f"--benchmark-json={path}", "--benchmark-quiet"]
        command += [f"benchmarks/{stem}.py" for stem in chosen]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        one_thread.pop("PYTEST_XDIST_WORKER", None)  # nothing is timed beside others' tests
        subprocess.run(command, cwd=ROOT, env=one_thread, check=True)
        return slim(json.loads(path.read_text()))


def slim(record: dict[str, Any]) -> dict[str, float]:
    """Keep of pytest-benchmark's record what is compared."""
    return {each["fullname"]: each["stats"]["median"] for each in record["benchmarks"]}


def show(found: dict[str, Any], baseline: dict[str, Any]) -> None:
    """Print both medians of every function, and the ratio: above 1 is slower than before."""
    then, now = baseline["machine"], found["machine"]
    title = f"baseline: {then['cpu']}, commit {then['commit']}, {then['date']}, {then['versions']}"
    if (then["cpu"], then["versions"]) != (now["cpu"], now["versions"]):
        title += f"\nnow: {now['cpu']}, {now['versions']}: NOT the same machine"
    table = Table(title=title, title_justify="left")
    for column in ("function", "baseline", "now", "ratio"):
        table.add_column(column, overflow="fold")
    for name, seconds in found["median_s"].items():
        before = baseline["median_s"].get(name)
        known = ["new", ""] if before is None else [exact(before), f"{seconds / before:.2f}"]
        table.add_row(name.removeprefix("benchmarks/"), known[0], exact(seconds), known[1])
    Console(width=None if sys.stdout.isatty() else 140).print(table, markup=False)


def exact(seconds: float) -> str:
    """Say short times in microseconds, others as people do."""
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-2 else duration(seconds)

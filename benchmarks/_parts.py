"""Benchmarks of several parts, each a module with `measure(scale)`; peaks of other processes."""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from benchmarks._values_agreement import CLEAR, process_status
from benchmarks._values_common import Found


def measured(parts: Iterable[str], modules: Mapping[str, str], scale: Any) -> dict[str, Found]:
    """Measure parts one by one, saying which."""
    found = {}
    for part in parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        found[part] = importlib.import_module(modules[part]).measure(scale)
    return found


def chosen(text: str, modules: Mapping[str, str], parser: argparse.ArgumentParser) -> list[str]:
    """Return the parts that `--only` names; leave with wrong usage for another one."""
    parts = text.split(",")
    if unknown := set(parts) - set(modules):
        known = ", ".join(modules)
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {known}")
    return parts


def in_own_process(module: str, function: str, *arguments: Any) -> int:
    """Return what `function(*arguments)` of a module does, called elsewhere on as many threads.

    Args:
        module, function: their names.
        arguments: what JSON can hold.
    """
    code = f"import benchmarks._parts as p, {module} as m; p._print(m.{function})"
    given = json.dumps([torch.get_num_threads(), arguments])
    output = subprocess.check_output([sys.executable, "-c", code, given], text=True)
    return int(output.splitlines()[-1])


def peak_of(run: Callable[[], Any]) -> int:
    """Return the bytes that a call adds to this process at its height; Linux only."""
    CLEAR.write_text("5")
    before = process_status("VmRSS")
    run()
    return max(0, process_status("VmHWM") - before)


def _print(function: Callable[..., int]) -> None:
    threads, arguments = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    print(function(*arguments))

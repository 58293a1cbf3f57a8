"""Names the machine, so that no figure stands without it, and writes results."""

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Describe the processor, the GPU if any, and the libraries."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "triton")},
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts


def write_result(name: str, figures: Any, command: str, inputs: Iterable[Path] = ()) -> Path:
    """Write figures with machine, command and what was read to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"command": command, "machine": machine(), "figures": figures}
    if files := [file for given in inputs for file in _files(given)]:
        record["inputs"] = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files
        }
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return path


def _files(given: Path) -> list[Path]:
    found = sorted(given.iterdir()) if given.is_dir() else [given]
    return [file for file in found if file.is_file()]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ImportError:
        return None


def _commit() -> str | None:
    try:
        command = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return None

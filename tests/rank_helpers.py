"""What the tests of scaling out share: torchrun in a process of its own, inputs, bytes of runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
# The rendezvous of --standalone picks a free port, so that tests may run side by side.

# The command line, whose ranks wait to be killed in the tasks that come after the task LAST.
LAST = 8
HELD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from patience import be_killed
from pyengine.cli import main
from pyengine.scale.work import Work

run = Work.run

def held(work, model, out, task, n_tasks, on_progress=None):
    wait = lambda done, total: be_killed()
    return run(work, model, out, task, n_tasks, on_progress if task <= {LAST} else wait)

Work.run = held
main()
"""


def torchrun(n_ranks: int, *arguments: object, **settings: str) -> subprocess.Popen[str]:
    """Start some ranks of `-m MODULE ...` or of a script; `settings` are environment variables."""
    command = [*TORCHRUN, "--nproc-per-node", str(n_ranks), *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **settings},
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for it; return its exit code, stdout and stderr."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process the only rank there is, on whatever port is free."""
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",
    }.items():
        monkeypatch.setenv(name, value)


def write_corpus(path: Path, n_lines: int = 60) -> Path:
    """Write random lines of the words that the small tokenizers know."""
    rng = np.random.default_rng(0)
    lines = [
        " ".join(f"w{i}" for i in rng.integers(0, 80, rng.integers(1, 12))) for _ in range(n_lines)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def contents(run: Path) -> dict[str, bytes]:
    """Return the files of a complete run; what may differ between equal runs is left out."""
    files = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file()}
    assert "provenance.json" in files
    return {name: path.read_bytes() for name, path in files.items() if name != "provenance.json"}

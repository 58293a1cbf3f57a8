"""The Triton sources, interpreted on the CPU, equal the oracles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("script, n", [("interpreted.py", 8), ("interpreted_search.py", 5)])
def test_interpreted_kernels_are_exact(script: str, n: int) -> None:
    pytest.importorskip("triton")
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(TESTS / script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-3000:]}"
    assert run.stdout.count("ok ") == n, run.stdout

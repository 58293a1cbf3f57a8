"""Every Triton kernel compiles for sm_80, sm_90 and gfx942 within its register budget."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_kernels_fit_their_budgets():
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    )
    command = [sys.executable, str(TESTS / "aot.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-2000:]}"
    lines = [line for line in run.stdout.splitlines() if line.startswith("ok ")]
    assert len(lines) >= 63, run.stdout  # an empty report is a failure, too

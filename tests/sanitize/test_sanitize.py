"""csrc/ under the address, undefined-behaviour and thread sanitizers.

Part of `pytest -m slow`: builds driver.cpp with the C++ compiler (`CXX`, else `c++`) and runs
random well-formed and malformed merges. A sanitizer's finding makes the driver exit non-zero.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
ROUNDS = 3000


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_random_merges_are_clean(sanitizers: str, tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fno-sanitize-recover=all"]
    sources = [HERE / "driver.cpp", *sorted(CSRC.glob("*.cpp"))]
    compiler = os.environ.get("CXX", "c++")
    flags = ["-std=c++17", "-O1", "-g", f"-fsanitize={sanitizers}", *strict, f"-I{CSRC}"]
    subprocess.run([compiler, *flags, *sources, "-o", driver, "-pthread"], check=True)

    done = subprocess.run(
        [driver, str(ROUNDS), "1"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.fullmatch(r"merged (\d+) refused (\d+)\n", done.stdout)
    assert counts, done.stdout
    assert min(int(count) for count in counts.groups()) > ROUNDS // 20

"""csrc/ under the address, undefined-behaviour and thread sanitizers.

Part of `pytest -m slow`: builds the drivers with the C++ compiler (`CXX`, else `c++`) and runs
them on random input, well-formed and malformed. A sanitizer's finding makes a driver exit
non-zero.
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
@pytest.mark.parametrize(
    "name, done_word",
    [
        ("driver", "merged"),
        ("gelu_driver", "activated"),
        ("rows_driver", "summarized"),
        ("topk_driver", "folded"),
    ],
)
def test_random_input_is_handled_cleanly(
    name: str, done_word: str, sanitizers: str, tmp_path: Path
) -> None:
    driver = tmp_path / name
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fno-sanitize-recover=all"]
    sources = [HERE / f"{name}.cpp", *sorted(CSRC.glob("*.cpp"))]
    compiler = os.environ.get("CXX", "c++")
    flags = ["-std=c++17", "-O1", "-g", f"-fsanitize={sanitizers}", *strict, f"-I{CSRC}"]
    subprocess.run([compiler, *flags, *sources, "-o", driver, "-pthread"], check=True)

    done = subprocess.run(
        [driver, str(ROUNDS), "1"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.fullmatch(rf"{done_word} (\d+) refused (\d+)\n", done.stdout)
    assert counts, done.stdout
    assert min(int(count) for count in counts.groups()) > ROUNDS // 20

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
from patience import PATIENCE

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
ROUNDS = 2000
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fno-sanitize-recover=all"]


def compiled(sanitizers: str, folder: Path, *arguments: object) -> None:
    compiler = [os.environ.get("CXX", "c++"), "-std=c++17", "-O1", "-g", *STRICT]
    flags = [f"-fsanitize={sanitizers}", f"-I{CSRC}", "-pthread"]
    subprocess.run([*compiler, *flags, *map(str, arguments)], cwd=folder, check=True)


@pytest.fixture(scope="module", params=["address,undefined", "thread"])
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The sanitizers, and a folder with the objects of csrc/ for them."""
    folder = tmp_path_factory.mktemp("objects")
    compiled(request.param, folder, "-c", *sorted(CSRC.glob("*.cpp")))
    return request.param, folder


@pytest.mark.slow
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
    name: str, done_word: str, library: tuple[str, Path], tmp_path: Path
) -> None:
    sanitizers, objects = library
    driver = tmp_path / name
    compiled(sanitizers, tmp_path, HERE / f"{name}.cpp", *objects.glob("*.o"), "-o", driver)

    done = subprocess.run(
        [driver, str(ROUNDS), "1"], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.fullmatch(rf"{done_word} (\d+) refused (\d+)\n", done.stdout)
    assert counts, done.stdout
    assert min(int(count) for count in counts.groups()) > ROUNDS // 20

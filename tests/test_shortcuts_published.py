"""Published matrices: what is imported, what is refused, and the conversion of pickles."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor

import pyengine
from pyengine import PyengineError
from pyengine.cache_files import write_tensors
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.points import points_of
from pyengine.shortcuts.published import import_matrices
from pyengine.shortcuts.tuned_lens import train_tuned_lens

DOCUMENT = Path(__file__).parents[1] / "README.md"
ALL = [(i, j) for i in range(3) for j in range(i + 1, 4)]
TO_LAST = [(i, 3) for i in range(3)]


@pytest.fixture(scope="module")
def model() -> pyengine.Model:
    return pyengine.load((tiny_model("gpt2"), None))


def matrices(pairs: list[tuple[int, int]]) -> dict[tuple[int, int], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {pair: torch.randn(20, 20, generator=generator) for pair in pairs}


def in_folder(folder: Path, found: dict[tuple[int, int], Tensor]) -> Path:
    for (source, target), matrix in found.items():
        write_tensors(folder / f"{source}_{target}.safetensors", {"A": matrix})
    return folder


def in_file(path: Path, found: dict[tuple[int, int], Tensor]) -> Path:
    write_tensors(
        path, {f"{source}_{target}": matrix for (source, target), matrix in found.items()}
    )
    return path


@pytest.mark.parametrize("pairs", [ALL, TO_LAST], ids=["all", "last"])
@pytest.mark.parametrize("write", [in_folder, in_file])
def test_matrices_are_imported_as_they_are_applied(
    tmp_path: Path, model: pyengine.Model, write: Any, pairs: list[tuple[int, int]]
) -> None:
    found = matrices(pairs)
    shortcuts = import_matrices(model, write(tmp_path / "matrices", found))
    assert shortcuts.pairs() == pairs
    h = torch.randn(2, 20)
    for pair, matrix in found.items():
        torch.testing.assert_close(shortcuts.apply(h, *pair), h @ matrix.t())
    shortcuts.check(model)
    with pytest.raises(PyengineError):
        shortcuts.check(pyengine.load((tiny_model("gpt2", seed=1), None)))


def test_half_of_all_pairs_are_those_to_the_last_layer(
    tmp_path: Path, model: pyengine.Model
) -> None:
    found = matrices([*TO_LAST, (0, 1)])
    assert import_matrices(model, in_file(tmp_path / "a.safetensors", found)).pairs() == TO_LAST


def test_without_validation_rows_maps_are_used_but_not_scored(
    tmp_path: Path, model: pyengine.Model
) -> None:
    path = in_file(tmp_path / "a.safetensors", matrices(TO_LAST))
    shortcuts = import_matrices(model, path)
    with pytest.raises(PyengineError, match="validation") as caught:
        evaluate(shortcuts, model, mappings=["mat"], bootstrap=0)
    assert "\n" not in str(caught.value)


def test_a_lens_cannot_be_trained_on_rows_that_are_not_known(
    tmp_path: Path, model: pyengine.Model
) -> None:
    shortcuts = import_matrices(model, in_file(tmp_path / "a.safetensors", matrices(TO_LAST)))
    with pytest.raises(PyengineError, match="were not fitted here"):
        train_tuned_lens(shortcuts, model, pyengine.Corpus.from_token_ids([[3, 4, 5]] * 9))


def test_imported_maps_are_saved_and_opened(tmp_path: Path, model: pyengine.Model) -> None:
    found = matrices(TO_LAST)
    shortcuts = import_matrices(model, in_file(tmp_path / "a.safetensors", found))
    opened: Any = pyengine.open_run(shortcuts.save(tmp_path / "run"))
    assert torch.equal(opened.map(1).weight, found[1, 3])
    with pytest.raises(PyengineError, match="validation"):
        opened.validation()


def test_matrices_of_the_encoder(tmp_path: Path) -> None:
    t5 = pyengine.load((tiny_model("t5"), None))
    path = in_file(tmp_path / "a.safetensors", matrices([(0, 1), (0, 2), (1, 2)]))
    shortcuts = import_matrices(t5, path, stack="encoder")
    assert shortcuts.stacks == ("encoder",)
    assert shortcuts.pairs() == points_of(t5, "encoder").pairs("all")
    assert isinstance(shortcuts.map(0), LinearMap)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({(0, 3): None}, "lacks the matrix 0_3"),
        ({(1, 3): torch.zeros(20, 19)}, r"matrix 1_3 is \[20, 19\]; d_model is 20"),
        ({(2, 4): torch.zeros(20, 20)}, "a matrix 2_4; the layers of the decoder are 0 to 3"),
        ({(3, 1): torch.zeros(20, 20)}, "a matrix 3_1"),
        ({(1, 3): torch.full((20, 20), torch.inf)}, "matrix 1_3 has NaN or infinite numbers"),
    ],
)
def test_matrices_that_do_not_fit(
    tmp_path: Path, model: pyengine.Model, change: dict[Any, Any], named: str
) -> None:
    found = {pair: matrix for pair, matrix in (matrices(TO_LAST) | change).items()}
    kept = {pair: matrix for pair, matrix in found.items() if matrix is not None}
    with pytest.raises(PyengineError, match=named):
        import_matrices(model, in_file(tmp_path / "a.safetensors", kept))


def test_files_of_another_kind(tmp_path: Path, model: pyengine.Model) -> None:
    with pytest.raises(PyengineError, match=r"holds no i_j.safetensors"):
        import_matrices(model, tmp_path)
    with pytest.raises(PyengineError, match="does not exist"):
        import_matrices(model, tmp_path / "none.safetensors")
    write_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(PyengineError, match="'weights' is not the name of a matrix"):
        import_matrices(model, tmp_path)
    write_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(1), "b": torch.ones(1)})
    with pytest.raises(PyengineError, match="must hold one tensor, not 2"):
        import_matrices(model, tmp_path)


def conversion(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script of the documentation, as it stands there, in a folder."""
    script = re.search(r"```python\n(import pickle.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert script is not None
    command = [sys.executable, "-c", script[1]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_pickles_are_refused_and_converted(tmp_path: Path, model: pyengine.Model) -> None:
    found = matrices(TO_LAST)
    for protocol, (pair, matrix) in enumerate(found.items(), start=2):
        path = tmp_path / f"{pair[0]}_{pair[1]}.pickle"
        path.write_bytes(pickle.dumps(matrix, protocol))
    with pytest.raises(PyengineError, match=r"0_3.pickle is a pickle.*README.md"):
        import_matrices(model, tmp_path)
    done = conversion(tmp_path)
    assert done.returncode == 0, done.stderr
    shortcuts = import_matrices(model, tmp_path)
    for pair, matrix in found.items():
        assert torch.equal(shortcuts.map(*pair).weight, matrix)  # type: ignore[arg-type]


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def test_the_conversion_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "0_3.pickle").write_bytes(pickle.dumps(Harmful()))
    done = conversion(tmp_path)
    assert done.returncode != 0 and "mkdir" in done.stderr
    assert not (tmp_path / "harmed").exists()

"""The layout's trap: the name `kernels` belongs to a Hugging Face package that transformers uses.

So kernels/ is no package of its own, `pyengine/kernels` links to it, and no wheel holds a top-level
`kernels`.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_kernels_is_a_linked_folder_and_no_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    link = ROOT / "pyengine" / "kernels"
    assert link.is_symlink()
    assert link.readlink() == Path("../kernels")
    assert link.resolve() == ROOT / "kernels"


def test_transformers_loads_a_model_class_from_the_repository_root() -> None:
    code = "from transformers import GPT2LMHeadModel; print(GPT2LMHeadModel.__name__)"
    assert run_python(code, ROOT) == "GPT2LMHeadModel"


def test_kernels_are_imported_from_outside_the_repository(tmp_path: Path) -> None:
    code = "import pyengine.kernels as kernels; print(*kernels.__path__)"
    folder = Path(run_python(code, tmp_path))
    assert (folder / "_launch.py").is_file()


def test_importing_pyengine_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = "import sys, pyengine; print({'torch', 'transformers', 'triton'} & set(sys.modules))"
    assert run_python(code, tmp_path) == "set()"


def tracked_copy(to: Path) -> Path:
    """Copy the files that git would commit, so that the build neither sees nor leaves others."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, to / name
        if not (source.exists() or source.is_symlink()):
            continue  # deleted, not yet committed
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            target.write_bytes(source.read_bytes())
    return to


def build_wheel(source: Path, out: Path, poison: Path) -> set[str]:
    """Build a wheel without the network and with a torch that must not be imported."""
    poison.mkdir()
    (poison / "torch.py").write_text("raise RuntimeError('the build imported torch')\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # --no-build-isolation: the `dev` extra brings the build requirements.
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*pip_wheel, "--wheel-dir", str(out), str(source)],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(poison), "CXXFLAGS": "-Werror"},
        check=True,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def make_sdist(source: Path, out: Path) -> Path:
    code = f"from setuptools.build_meta import build_sdist; print(build_sdist({str(out)!r}))"
    return out / run_python(code, source).splitlines()[-1]


def package_files(source: Path) -> set[str]:
    """List the files that every wheel must hold."""
    package = source / "pyengine"
    # kernels/ goes through the link, which rglob does not follow.
    files = [*package.rglob("*.py"), *package.rglob("*.pyi"), *(package / "kernels").glob("*.py")]
    files += [path for path in (package / "demo").rglob("*") if path.is_file()]
    names = {path.relative_to(source).as_posix() for path in files}
    assert {"pyengine/kernels/_launch.py", "pyengine/_native.pyi"} <= names
    return names | {"pyengine/py.typed"}


def test_a_checkout_gives_the_package_and_no_top_level_kernels(tmp_path: Path) -> None:
    """Without the compiled module: the wheel of the sdist, below, has one."""
    source = tracked_copy(tmp_path / "source")
    expected = package_files(source)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"]
    subprocess.run(command, cwd=source, check=True)
    built = source / "built"
    names = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    assert expected <= names, sorted(expected - names)
    assert {name.split("/")[0] for name in names} == {"pyengine"}


@pytest.mark.slow
def test_the_wheel_of_an_sdist_holds_the_package_and_no_top_level_kernels(tmp_path: Path) -> None:
    source = tracked_copy(tmp_path / "source")
    expected = package_files(source)
    sdist = make_sdist(source, tmp_path)
    names = build_wheel(sdist, tmp_path / "wheels", tmp_path / "poison")
    assert expected <= names, sorted(expected - names)
    assert any(name.startswith("pyengine/_native.") and name.endswith(".so") for name in names)
    top_level = {name.split("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"pyengine"}
    assert any(name.endswith("licenses/LICENSE") for name in names)

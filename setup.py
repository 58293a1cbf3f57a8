"""Build pyengine._native with CMake; everything else about the package is in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

# By name: pyengine/kernels, a link to kernels/, must have no __init__.py and so is never found.
PACKAGES = [
    "pyengine",
    "pyengine.analyses",
    "pyengine.cli",
    "pyengine.compat",
    "pyengine.export",
    "pyengine.extraction",
    "pyengine.gradients",
    "pyengine.heads",
    "pyengine.heads.probe",
    "pyengine.kernels",
    "pyengine.plots",
    "pyengine.reducers",
    "pyengine.scale",
    "pyengine.shortcuts",
]
DEMO_DATA = [
    f"demo/**/{name}" for name in ("*.safetensors", "*.json", "*.jsonl", "*.tokens", "*.md")
]


class CMakeBuild(build_ext):
    """Configure and build CMakeLists.txt, placing the module where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        """Build `ext`, whatever its sources: CMakeLists.txt lists them."""
        import pybind11

        out = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / ext.name
        # Remembers the ninja of an isolated build environment that pip has deleted since.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": out,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        subprocess.check_call(
            [*configure, *(f"-D{key}={value}" for key, value in settings.items())]
        )
        subprocess.check_call(["cmake", "--build", str(build)])


setup(
    packages=PACKAGES,
    package_data={"pyengine": ["py.typed", "*.pyi", *DEMO_DATA]},
    ext_modules=[Extension("pyengine._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

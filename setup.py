"""Builds the C++ extension `iris_fast._C` with CMake and places the folder kernels/ at `iris_fast.kernels`.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Builds every extension with the one CMake project at the root, in a build folder of its own."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11  # a requirement of the build alone, so absent when only metadata is asked for

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_dir = Path(self.build_temp).resolve() / "cmake"
        build_dir.mkdir(parents=True, exist_ok=True)
        configuration = "Debug" if self.debug else "Release"
        self._cmake(
            f"-S{ROOT}",
            f"-B{build_dir}",
            "-GNinja",
            f"-DCMAKE_BUILD_TYPE={configuration}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        )
        self._cmake("--build", str(build_dir), "--target", ext.name.rpartition(".")[2])

    def _cmake(self, *arguments: str) -> None:
        try:
            subprocess.run(["cmake", *arguments], check=True)
        except FileNotFoundError:
            raise SystemExit(
                "error: building iris_fast needs CMake: run `python -m pip install cmake`"
            ) from None
        except subprocess.CalledProcessError:
            raise SystemExit(
                "error: CMake could not build the C++ extension of iris_fast (its message is above): "
                "a C++17 compiler is needed, such as the package g++ or clang"
            ) from None


# In a checkout iris_fast/kernels is a link to ../kernels, for tools that read the source tree; distributions
# hold the folder once, as kernels/, which is why it is named here and not found through the link.
packages = find_packages(
    include=["iris_fast", "iris_fast.*"], exclude=["iris_fast.kernels", "iris_fast.kernels.*"]
)
kernels = ["iris_fast.kernels", *(f"iris_fast.kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=packages + kernels,
    package_dir={"iris_fast": "iris_fast", "iris_fast.kernels": "kernels"},
    package_data={"iris_fast": ["py.typed", "*.pyi"], "iris_fast.kernels": ["README.md"]},
    ext_modules=[Extension("iris_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

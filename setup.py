"""Builds the C++ extension `iris_fast._C` with CMake and places the folder kernels/ at `iris_fast.kernels`.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Builds every extension with the one CMake project at the root, in a build folder of its own."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_dir = self.build_folder() / "cmake"
        pybind11_dir = require_tools()
        forget_configuration(build_dir)
        configuration = "Debug" if self.debug else "Release"
        run_cmake(
            configuring_problem,
            f"-S{ROOT}",
            f"-B{build_dir}",
            "-GNinja",
            f"-DCMAKE_BUILD_TYPE={configuration}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11_dir}",
        )
        run_cmake(
            lambda: (
                "the C++ extension did not compile: a compiler for C++17 is needed, such as g++ 9 or clang 10"
            ),
            "--build",
            str(build_dir),
            "--target",
            ext.name.rpartition(".")[2],
        )

    def build_folder(self) -> Path:
        """The folder of compiled objects, which stays for the next build.

        For an editable install setuptools names one that it deletes afterwards; this is the one of all other builds.
        """
        if self.editable_mode:
            return ROOT / "build" / f"temp.{self.plat_name}-{sys.implementation.cache_tag}"
        return Path(self.build_temp).resolve()


def require_tools() -> str:
    """Where pybind11's CMake files are; ends where a tool of the build is missing (without build isolation)."""
    for program, package in (("cmake", "cmake"), ("ninja", "ninja")):
        if shutil.which(program) is None:
            stop(f"building iris_fast needs {program}: run `python -m pip install {package}`")
    try:
        import pybind11  # a requirement of the build alone, so absent when only metadata is asked for
    except ImportError:
        stop("building iris_fast needs pybind11: run `python -m pip install pybind11`")
    return str(pybind11.get_cmake_dir())


def forget_configuration(build_dir: Path) -> None:
    """Keeps compiled objects, but not what an earlier build found: its Ninja, its compiler, its place.

    pip builds in an environment that is deleted afterwards, and a checkout may be moved.
    """
    try:
        build_dir.mkdir(parents=True, exist_ok=True)
        (build_dir / "CMakeCache.txt").unlink(missing_ok=True)
        for found in build_dir.glob("CMakeFiles/[0-9]*"):
            shutil.rmtree(found)
    except OSError as error:
        stop(f"{build_dir} cannot be written ({error.strerror}): delete the folder {ROOT / 'build'}")


def configuring_problem() -> str:
    compilers = (
        [os.environ["CXX"].split()[0]] if os.environ.get("CXX", "").strip() else ["c++", "g++", "clang++"]
    )
    if any(map(shutil.which, compilers)):
        return (
            "CMake could not prepare the build of the C++ extension of iris_fast: its message above says why"
        )
    asked = (
        f"the compiler of the variable CXX, {compilers[0]}, was not found"
        if len(compilers) == 1
        else ("there is no C++ compiler on the PATH")
    )
    return f"{asked}: install one for C++17, such as the package g++ or clang, or name yours in CXX"


def run_cmake(problem: Callable[[], str], *arguments: str) -> None:
    """Runs CMake; ends with `problem()`, below CMake's own message, where it fails."""
    try:
        subprocess.run(["cmake", *arguments], check=True)
    except (subprocess.CalledProcessError, OSError):
        stop(problem())


def stop(sentence: str) -> NoReturn:
    raise SystemExit(f"error: {sentence}")


# In a checkout iris_fast/kernels is a link to ../kernels, for tools that read the source tree; distributions
# hold the folder once, as kernels/, which is why it is named here and not found through the link.
packages = find_packages(
    include=["iris_fast", "iris_fast.*"], exclude=["iris_fast.kernels", "iris_fast.kernels.*"]
)
kernels = ["iris_fast.kernels", *(f"iris_fast.kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=packages + kernels,
    package_dir={"iris_fast": "iris_fast", "iris_fast.kernels": "kernels"},
    package_data={
        "iris_fast": ["py.typed", "*.pyi"],
        "iris_fast.play": ["static/*"],
        "iris_fast.results": ["*.json"],
        "iris_fast.kernels": ["README.md"],
    },
    ext_modules=[Extension("iris_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

"""Builds from a checkout, repeated, elsewhere, and with missing tools: `python setup.py build_ext`, as pip runs
it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = """
cmake_minimum_required(VERSION 3.18)
project(stub CXX)
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 REQUIRED)
add_library(_C MODULE stub.cpp)
set_target_properties(_C PROPERTIES PREFIX "")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The build of this project with a small extension in the place of its own."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "setup.py", folder)
    (folder / "pyproject.toml").write_text('[project]\nname = "iris_fast"\nversion = "0"\n')
    for package in ("iris_fast", "kernels"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    (folder / "CMakeLists.txt").write_text(STUB)
    (folder / "stub.cpp").write_text("int value() { return 1; }\n")
    return folder


def tools(folder: Path, *names: str) -> Path:
    """A folder with nothing but links to these programs, as pip's environment for one build is."""
    folder.mkdir()
    for name in names:
        program = shutil.which(name)
        assert program is not None, name
        (folder / name).symlink_to(Path(program).resolve() if name == "ninja" else program)
    return folder


def build(checkout: Path, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")}
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext"],
        cwd=checkout,
        env=environment | {"PATH": path} | variables,
        capture_output=True,
        text=True,
    )


def assert_built(checkout: Path, result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(checkout.glob("build/lib*/iris_fast/_C.*"))


@pytest.mark.slow
def test_it_builds_again_with_other_tools_and_in_another_place(checkout: Path, tmp_path: Path) -> None:
    system = os.environ["PATH"]
    first = tools(tmp_path / "first", "cmake", "ninja")
    assert_built(checkout, build(checkout, f"{first}:{system}"))
    assert str(first / "ninja") in next(checkout.glob("build/temp*/cmake/CMakeCache.txt")).read_text()
    shutil.rmtree(first)
    second = tools(tmp_path / "second", "cmake", "ninja")
    assert_built(checkout, build(checkout, f"{second}:{system}"))
    moved = checkout.rename(tmp_path / "moved")
    shutil.rmtree(next(moved.glob("build/lib*")))
    assert_built(moved, build(moved, system))


@pytest.mark.slow
def test_it_builds_with_another_compiler_than_before(checkout: Path, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    (tmp_path / "old").mkdir()
    old = tmp_path / "old" / "g++"
    old.symlink_to(compiler)
    assert_built(checkout, build(checkout, os.environ["PATH"], CXX=str(old)))
    old.unlink()
    assert_built(checkout, build(checkout, os.environ["PATH"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("found", "variables", "sentence"),
    [
        (("cmake", "ninja"), {}, "error: there is no C++ compiler on the PATH: install one for C++17"),
        (
            ("cmake", "ninja"),
            {"CXX": "nobodys++"},
            "error: the compiler of the variable CXX, nobodys++, was not",
        ),
        (("cmake",), {}, "error: building iris_fast needs ninja: run `python -m pip install ninja`"),
        ((), {}, "error: building iris_fast needs cmake: run `python -m pip install cmake`"),
    ],
)
def test_what_is_missing_is_what_is_named(
    checkout: Path, tmp_path: Path, found: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    result = build(checkout, str(tools(tmp_path / "tools", *found)), **variables)
    assert result.returncode != 0
    assert sentence in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_other_problems_are_not_blamed_on_the_compiler(checkout: Path) -> None:
    (checkout / "CMakeLists.txt").write_text('message(FATAL_ERROR "the moon is full")\n')
    result = build(checkout, os.environ["PATH"])
    assert "the moon is full" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("its message above says why")
    (checkout / "CMakeLists.txt").write_text(STUB)
    (checkout / "stub.cpp").write_text("no C++\n")
    assert "did not compile" in build(checkout, os.environ["PATH"]).stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_build_folder_that_cannot_be_written_is_named(checkout: Path) -> None:
    """By a file where the folder should be: rights would not keep root out."""
    assert_built(checkout, build(checkout, os.environ["PATH"]))
    (folder,) = checkout.glob("build/temp*/cmake")
    shutil.rmtree(folder)
    folder.touch()
    result = build(checkout, os.environ["PATH"])
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1]
    assert last == f"error: {folder} cannot be written (File exists): delete the folder {checkout / 'build'}"

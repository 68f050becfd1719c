"""The source distribution, the wheel built from it and the editable install each hold the whole package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import iris_fast

ROOT = Path(__file__).parents[2]
SOURCES = [
    "CMakeLists.txt",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "CHANGELOG.md",
    "constraints.txt",
    "csrc",
    "iris_fast",
    "kernels",
    "pyproject.toml",
    "setup.py",
]

USE_THE_PACKAGE = """
import pathlib, sys
import torch
import iris_fast, iris_fast._C, iris_fast.kernels
from iris_fast.kernels.common.extension import find_extension
assert find_extension() is iris_fast._C
tokens = iris_fast.kernels.sample_categorical(torch.zeros(64, 512), seed=0, position=0, purpose=0)
assert tokens.unique().numel() > 50
assert (pathlib.Path(iris_fast.__file__).parent / "py.typed").exists()
print(iris_fast.__file__)
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without anything built in it, so that no test finds what another made."""
    target = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def distributions(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution of `source` and the wheel that is built from it.

    The wheel is built at the checkout's own path, and the checkout then gets the folder of compiled objects: so the
    extension is compiled once for this file.
    """
    target = tmp_path_factory.mktemp("dist")
    build: list[str | Path] = [sys.executable, "-m", "build", "--no-isolation", "--outdir", target]
    run(*build, "--sdist", source, cwd=target)
    (archive,) = target.glob("*.tar.gz")
    aside = source.rename(source.with_name("aside"))
    shutil.unpack_archive(archive, target / "unpacked")
    next((target / "unpacked").iterdir()).rename(source)
    run(*build, "--wheel", source, cwd=target)
    (source / "build").rename(aside / "build")
    shutil.rmtree(source)
    aside.rename(source)
    return target


def environment(folder: Path) -> Path:
    """A virtual environment which sees this one's packages but not the editable installs among them."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(site) / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


PAGE = {str(path.relative_to(ROOT)) for path in (ROOT / "iris_fast" / "play" / "static").iterdir()}


def modules_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.py")}


def test_source_distribution_holds_each_kernel_once(distributions: Path) -> None:
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {member.name.partition("/")[2] for member in tar.getmembers() if not member.isdir()}
    assert {"setup.py", "CMakeLists.txt", "constraints.txt", "LICENSE", "csrc/bindings.cpp"} <= names
    assert {f"kernels/{module}" for module in modules_below(ROOT / "kernels")} <= names
    assert {"csrc/include/iris_fast/tokens.hpp", "csrc/src/philox.hpp"} <= names
    assert PAGE and names >= PAGE
    assert not [name for name in names if name.startswith("iris_fast/kernels")]
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_wheel_holds_every_module(distributions: Path, source: Path) -> None:
    (archive,) = distributions.glob("*.whl")
    names = set(zipfile.ZipFile(archive).namelist())
    expected = {f"iris_fast/{module}" for module in modules_below(source / "iris_fast")}
    expected |= {f"iris_fast/kernels/{module}" for module in modules_below(source / "kernels")}
    assert expected <= names
    assert {"iris_fast/py.typed", "iris_fast/_C.pyi", "iris_fast/kernels/README.md"} <= names
    assert "iris_fast/results/atari_100k.json" in names and names >= PAGE
    assert len([name for name in names if name.startswith("iris_fast/_C.") and name.endswith(".so")]) == 1
    metadata = f"iris_fast-{iris_fast.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"iris_fast", metadata}


def test_wheel_from_the_source_distribution_works(distributions: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    (wheel,) = distributions.glob("*.whl")
    run(python, "-m", "pip", "install", "--no-deps", "--ignore-installed", wheel, cwd=tmp_path)
    assert run(python, "-c", USE_THE_PACKAGE, cwd=tmp_path).startswith(str(tmp_path / "venv"))


def test_editable_install_works_and_compiles_nothing_again(
    source: Path, distributions: Path, tmp_path: Path
) -> None:
    def objects() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for path in source.glob("build/temp*/**/iris_fast_engine.dir/**/*.o")
        }

    compiled = objects()
    python = environment(tmp_path / "venv")
    install = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    run(python, *install, "--editable", source, cwd=tmp_path)
    assert run(python, "-c", USE_THE_PACKAGE, cwd=tmp_path).startswith(str(source))
    assert len(list((source / "iris_fast").glob("_C.*.so"))) == 1
    assert compiled and objects() == compiled

"""A machine with a GPU, lent for minutes, has PyTorch, Triton and NumPy, and maybe nothing else that we use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.lacking import lacking

ROOT = Path(__file__).parents[2]
LACKING = (
    *(
        "av",
        "gymnasium",
        "ale_py",
        "envpool",
        "hypothesis",
        "matplotlib",
        "PIL",
        "yaml",
        "tensorboard",
    ),
    *("pybind11", "iris_fast._C"),
)
DRAW = ("benchmarks.report.plots", "benchmarks.run_record")  # with matplotlib, of results that are there

IMPORTS = f"""
import importlib, pkgutil, benchmarks, benchmarks.__main__, tests.kernels
import tests.imagination.test_graph_engine, tests.training.test_graphed_step
names = [one.name for package in (benchmarks, tests.kernels)
         for one in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in set(names) - {set(DRAW)}:
    importlib.import_module(name)
print(len(names))
"""


def test_benchmarks_and_tests_of_kernels_are_imported_without_other_packages(tmp_path: Path) -> None:
    environment = lacking(LACKING, tmp_path)
    environment["PYTHONPATH"] += f":{ROOT}"
    found = subprocess.run(
        [sys.executable, "-c", IMPORTS], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 60


def test_without_hypothesis_its_tests_are_skipped_and_the_others_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    file = "tests/kernels/test_vq_statistics.py"
    found = subprocess.run(
        [*command, "-rs", file], env=lacking(LACKING, tmp_path), cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout
    assert "needs hypothesis" in found.stdout and " passed" in found.stdout

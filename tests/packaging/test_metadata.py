"""The promises of the README and the package's metadata, checked without a build."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import iris_fast

ROOT = Path(__file__).parents[2]


def readme_command(number: int) -> str:
    command = [sys.executable, str(ROOT / ".ci" / "readme_command.py"), str(number)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_first_two_commands_of_the_readme_are_one_line_each() -> None:
    train, test = readme_command(1), readme_command(2)
    assert train.count("\n") == test.count("\n") == 1
    assert re.fullmatch(r"python -m pip install .*&& python -m iris_fast\.train --game Pong\n", train)
    assert re.fullmatch(r"python -m pip install .*\[test\].*&& python -m pytest -n auto\n", test)


def test_the_first_two_commands_take_the_constrained_torch() -> None:
    assert "torch==" in (ROOT / "constraints.txt").read_text()
    for number in (1, 2):
        assert "-c constraints.txt" in readme_command(number)


def test_the_package_asks_for_ranges_and_pins_nothing() -> None:
    project = (ROOT / "pyproject.toml").read_text().partition("[tool.")[0]
    requirements = re.findall(r'"([A-Za-z][\w.-]*(?:\[[\w,]+\])?)([<>=!~][^;"]*)?(?:;[^"]*)?"', project)
    ranges = {name: version for name, version in requirements if version}
    assert {"torch", "numpy", "gymnasium", "triton"} <= set(ranges)
    for name, version in ranges.items():
        assert version.startswith((">=", "<")), (name, version)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_kernels_are_linked_into_the_source_tree() -> None:
    link = ROOT / "iris_fast" / "kernels"
    assert link.is_symlink()
    assert link.readlink() == Path("../kernels")


def test_every_folder_with_code_is_a_package() -> None:
    """Otherwise a folder is missing from the wheel, which an editable install does not show."""
    package = Path(iris_fast.__file__).parent
    for module in package.rglob("*.py"):
        assert (module.parent / "__init__.py").exists(), module

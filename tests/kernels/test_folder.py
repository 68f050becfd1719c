"""The folder kernels/ by itself: what it imports, and that a copy of it works in another package."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import iris_fast.kernels

FOLDER = Path(iris_fast.kernels.__file__).parent.resolve()
ALLOWED = {"torch", "triton"} | set(sys.stdlib_module_names)


def imported_packages(source: str) -> set[str]:
    """Top-level names that absolute imports in `source` name."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.partition(".")[0] for name in names}


def test_imports_torch_and_triton_alone() -> None:
    assert imported_packages("import iris_fast.x\nfrom numpy import y\nfrom . import z") == {
        "iris_fast",
        "numpy",
    }
    modules = list(FOLDER.rglob("*.py"))
    assert len(modules) >= 4
    for module in modules:
        assert imported_packages(module.read_text()) <= ALLOWED, module


def private_parts(source: str) -> list[str]:
    """What absolute and relative imports in `source` take of the folder that begins with an underscore."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
        for name in (module + name for name in names):
            parts = name.split(".")
            if "kernels" in parts and any(
                part.startswith("_") for part in parts[parts.index("kernels") + 1 :]
            ):
                found.append(name)
    return found


def test_the_rest_of_the_product_imports_what_is_public_alone() -> None:
    assert private_parts("from .kernels._vq.tiles import x\nfrom iris_fast.kernels.common import y") == [
        "kernels._vq.tiles.x"
    ]
    assert private_parts("from iris_fast.kernels import _z\nimport iris_fast.kernels._a.b")
    root = Path(iris_fast.__file__).parent
    modules = [path for path in root.rglob("*.py") if root / "kernels" not in path.parents]
    assert len(modules) > 50
    for module in modules:
        assert not private_parts(module.read_text(encoding="utf-8")), module


def test_every_public_name_is_in_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    for name in iris_fast.kernels.__all__:
        assert f"`{name}" in readme, name


COPY_PROGRAM = """
import torch
import iris_fast.kernels                                   # the original beside the copy: no operator clashes
from other.vendored_kernels import lambda_returns, philox_uniform, sample_categorical
logits = torch.arange(12.0).reshape(4, 3).sin()
tokens = sample_categorical(logits, seed=1, position=2, purpose=3)
assert torch.equal(tokens, iris_fast.kernels.sample_categorical(logits, seed=1, position=2, purpose=3))
ours, theirs = torch.ops.iris_fast_kernels, torch.ops.other_vendored_kernels
assert ours.sample_categorical is not theirs.sample_categorical
assert lambda_returns(*torch.ones(3, 2, 5), 0.9, 0.9).shape == (2, 5)
assert philox_uniform(0, 0, 0, 0) < 1
print("copied")
"""


def test_a_copy_works_in_another_package(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").touch()
    shutil.copytree(FOLDER, tmp_path / "other" / "vendored_kernels")
    root = Path(iris_fast.__file__).parents[1]
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\n{COPY_PROGRAM}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == "copied\n", result.stderr


@pytest.mark.parametrize("body", ["", "def sample_categorical(*_): raise RuntimeError('not yours')"])
def test_a_copy_leaves_an_extension_of_the_same_name_alone(body: str, tmp_path: Path) -> None:
    """Many packages have a `_C` of their own."""
    shutil.copytree(FOLDER, tmp_path / "theirs" / "kernels")
    (tmp_path / "theirs" / "__init__.py").touch()
    (tmp_path / "theirs" / "_C.py").write_text(body)
    program = (
        "import torch\nfrom theirs.kernels import sample_categorical\n"
        "print(sample_categorical(torch.zeros(1, 1), seed=1, position=2, purpose=3).tolist())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == "[0]\n", result.stderr


ALONE_PROGRAM = """
import sys

class Absent:
    # No part of this project but the copy can be imported, nor what only the project needs.

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"iris_fast", "envpool", "ale_py", "gymnasium", "pybind11"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
"""


def snippets_of_the_readme() -> list[str]:
    readme = (FOLDER / "README.md").read_text()
    return re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


def test_the_snippets_of_the_readme_run() -> None:
    snippets = snippets_of_the_readme()
    assert snippets
    for snippet in snippets:
        exec(snippet, {})


def test_every_operation_of_a_copy_runs_without_the_project(tmp_path: Path) -> None:
    """The README's three lines of each, from a copy under another name: no `iris_fast`, no C++ extension."""
    shutil.copytree(FOLDER, tmp_path / "project" / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    snippets = [
        snippet.replace("from iris_fast.kernels import", "from project.ops import")
        for snippet in snippets_of_the_readme()
    ]
    lines = [ALONE_PROGRAM, f"sys.path.insert(0, {str(tmp_path)!r})", *snippets]
    lines += ["import project.ops.common.extension as e", "assert e.find_extension() is None"]
    lines += ["compiled = torch.compile(lambda_returns, backend='aot_eager', fullgraph=True)"]
    lines += ["assert compiled(*torch.ones(3, 2, 5), 0.9, 0.9).shape == (2, 5)"]
    lines += ["assert 'iris_fast' not in sys.modules", "print('alone')"]
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.stdout == "alone\n", result.stderr

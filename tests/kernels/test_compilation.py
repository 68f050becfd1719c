"""Dry launches of every launcher for an absent GPU, with the types, constants and sizes of a real launch."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import iris_fast.kernels
from benchmarks.compilation import (
    ARCHITECTURES,
    SHARED_LIMIT,
    SMALL_SHARED_MEMORY,
    compile_in_process,
    compiled_operations,
)

pytest.importorskip("triton")
# The rest of the default test run launches through the interpreter, which knows none of this.


def test_every_operation_with_device_code_is_launched() -> None:
    found = set()
    for path in (Path(iris_fast.kernels.__file__).parent).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel") and node.decorator_list:
                found.add(path.stem)
    assert found == set(compiled_operations())


def cases(hot: bool) -> list[Any]:
    """Operations on architectures: the hot launches for an H100 in the default run."""
    slow = pytest.mark.slow
    architectures = ARCHITECTURES if hot else (*ARCHITECTURES, *SMALL_SHARED_MEMORY)
    return [
        pytest.param(name, one, marks=[] if one == 90 and hot else slow)
        for name in compiled_operations()
        for one in architectures
    ]


@pytest.mark.parametrize(("operation", "architecture"), cases(hot=True))
def test_sizes_that_matter_compile_without_spills(operation: str, architecture: int) -> None:
    compiled = compile_in_process(operation, architecture, hot=True)
    assert compiled and all(kernel.hot for kernel in compiled)
    for kernel in compiled:
        assert 0 < kernel.registers <= 255, kernel
        assert kernel.shared <= SHARED_LIMIT[architecture], kernel
        assert kernel.spilled <= kernel.allowed, kernel


@pytest.mark.parametrize(("operation", "architecture"), cases(hot=False))
def test_all_launches_compile(operation: str, architecture: int) -> None:
    compiled = compile_in_process(operation, architecture)
    assert len({kernel.launch for kernel in compiled}) > 1
    for kernel in compiled:
        assert kernel.shared <= SHARED_LIMIT[architecture], kernel

"""Ahead-of-time compilation of every Triton kernel for three generations of GPUs, none of which need be there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import iris_fast.kernels
from benchmarks.compilation import ARCHITECTURES, SHARED_LIMIT, compile_in_process, variant_modules

pytest.importorskip("triton")


def operations_with_device_code() -> set[str]:
    """Modules of kernels/ that define a function under `@jit` whose name ends in `_kernel`."""
    found = set()
    for path in (Path(iris_fast.kernels.__file__).parent).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel") and node.decorator_list:
                found.add(path.stem)
    return found


def test_every_operation_with_device_code_has_variants() -> None:
    among_others = {"linear_sample_many_classes"}  # its variants are among those of linear_sample
    assert operations_with_device_code() - among_others == set(variant_modules())


# One generation in the default run; continuous integration compiles for all.
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=() if a == 90 else pytest.mark.slow) for a in ARCHITECTURES],
)
@pytest.mark.parametrize("operation", variant_modules())
def test_compiles_without_spills(operation: str, architecture: int) -> None:
    compiled = compile_in_process(operation, architecture)
    assert compiled
    for variant in compiled:
        assert 0 < variant.registers <= 255, variant
        assert variant.shared <= SHARED_LIMIT[architecture], variant
        assert not (variant.hot and variant.spilled), variant

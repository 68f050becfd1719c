"""The micro-benchmarks: each kernel has one, and its call returns the kernel's result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import micro
from benchmarks.kernels import timed_operations

KERNELS = Path(__file__).parents[2] / "kernels"
NO_KERNEL = {"philox"}  # a part of the sampling ones


def test_every_kernel_has_one() -> None:
    operations = {path.stem for path in KERNELS.glob("[a-z]*.py")} - NO_KERNEL
    assert set(timed_operations()) == operations


@pytest.mark.parametrize("operation", timed_operations())
def test_its_call_runs(operation: str) -> None:
    with torch.no_grad():
        result = micro.call_of(operation)()
    outputs = result if isinstance(result, tuple) else (result,)
    tensors = [output for output in outputs if isinstance(output, torch.Tensor)]
    assert tensors and all(tensor.numel() and not tensor.isnan().any() for tensor in tensors)

"""Micro-benchmarks of the kernels for pytest-benchmark: `python -m pytest benchmarks/micro.py`.

One size each, from an imagined step of the paper's agent at batch 64; the cases `kernel_…` have more sizes, and
peers.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.harness import Function
from benchmarks.kernels import timed_operations

pytest.importorskip("pytest_benchmark")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def call_of(operation: str) -> Function:
    """Ours, on inputs of the typical size."""
    _, benchmark = timed_operations()[operation]
    return next(iter(benchmark.problem(DEVICE, **benchmark.typical).ours.values()))


@pytest.mark.parametrize("operation", timed_operations())
def test_kernel(benchmark: Any, operation: str) -> None:
    call = call_of(operation)

    def finished() -> None:
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info["device"] = DEVICE.type
    with torch.no_grad():
        benchmark(finished)

"""Every launcher, launched for a GPU that is not there: types, constants and sizes as a real launch has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compilation import ARCHITECTURES, SHARED_LIMIT, variant_modules

from .dry_launches import CALLS, SMALL_SHARED_MEMORY

pytest.importorskip("triton")
# The rest of the default test run launches through the interpreter, which knows none of this.
QUICK = ("lambda_returns", "token_embedding", "vq_statistics")


def test_every_operation_with_device_code_is_launched() -> None:
    assert set(CALLS) == set(variant_modules()) - {"sample_long_rows"}  # which sample_categorical launches


def dry_launches(architecture: int, operation: str) -> list[dict[str, int]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.dry_launches", str(architecture), operation]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)["compiled"]


def cases() -> list[Any]:
    """Operations on architectures: a few in the default run, for what each costs in processor time."""
    slow = pytest.mark.slow
    return [
        pytest.param(name, one, marks=[] if name in QUICK and one == 90 else slow)
        for name in CALLS
        for one in (*ARCHITECTURES, *SMALL_SHARED_MEMORY)
    ]


@pytest.mark.parametrize(("operation", "architecture"), cases())
def test_launches_compile(operation: str, architecture: int) -> None:
    compiled = dry_launches(architecture, operation)
    assert compiled
    for kernel in compiled:
        assert kernel["shared"] <= SHARED_LIMIT.get(architecture, 99 * 1024), kernel

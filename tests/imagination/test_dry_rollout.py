"""The exact kernels that the CUDA-graph engine launches at the paper's sizes compile for an H100 and an H200."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compilation import SHARED_LIMIT

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton")


def test_every_launch_compiles_for_sm_90() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.imagination.dry_rollout", "90"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-4000:]
    compiled = json.loads(result.stdout)
    expected = {
        "_layer_norm_linear_kernel",
        "_cached_attention_kernel",
        "_layer_norm_attention_kernel",
        "_layer_norm_mlp_kernel",
        "_linear_sample_kernel",
        "_token_embedding_kernel",
        "_sample_tile_kernel",
    }
    names = {entry["kernel"] for entry in compiled}
    assert expected <= names and any(name.startswith("_group_norm") for name in names), names
    assert all(entry["shared"] <= SHARED_LIMIT[90] for entry in compiled), compiled

"""Catch is learned from an empty folder, with the command behind the README's results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_catch_is_learned(tmp_path: Path) -> None:
    """About 13 minutes on one thread; random play has a mean return of about -0.6."""
    run, result = tmp_path / "run", tmp_path / "evaluation.json"
    train = [sys.executable, "-m", "iris_fast.train", "--game", "Catch", "--seed", "0", "--run-dir", str(run)]
    subprocess.run(train, cwd=ROOT, check=True)
    evaluate = [
        sys.executable,
        "-m",
        "iris_fast.evaluate",
        str(run),
        "--episodes",
        "100",
        "--json",
        str(result),
    ]
    subprocess.run(evaluate, cwd=ROOT, check=True)
    assert json.loads(result.read_text())["statistics"]["return"] >= 0.8

"""The case about a trained agent, on one that has learned for an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import paired_samples
from benchmarks.__main__ import main
from benchmarks.cases import int8_rollouts as subject
from benchmarks.cases.int8_rollouts import CANDIDATES, CONTROL, int8_rollouts
from benchmarks.registry import Run
from iris_fast.errors import UserError
from iris_fast.train import main as train
from tests.support.micro import MICRO


def test_a_run_must_be_named() -> None:
    with pytest.raises(UserError, match="--run"):
        main(["--only", "int8_rollouts", "--quick", "--threads", "1"])


def test_every_candidate_is_beside_float32(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--game", "Catch", "--preset", "tiny", "--run-dir", str(tmp_path / "run")]
    assert train([*arguments, *MICRO, "common.epochs=1"]) == 0
    monkeypatch.setattr(subject, "BATCH", 8)
    monkeypatch.setattr(paired_samples, "PERMUTATIONS", 499)
    run.trained = tmp_path / "run"
    found = int8_rollouts(run).facts
    run.trained = None
    beside = found["beside_float32"]
    assert list(beside) == [*CANDIDATES, CONTROL] and found["epoch"] == 1 and found["rollouts"] == 16
    assert beside["float32"]["kl_nats"] == 0.0
    float16, int8, control = (
        beside[name]["kl_nats"] for name in ("float16 weights", "int8 weights", CONTROL)
    )
    assert 0 < float16 < int8 < control
    assert all(0 < p <= 1 for facts in beside.values() for p in facts["p"].values())

"""The case `epoch` in small: each phase of an epoch, in both precisions."""

from __future__ import annotations

import pytest

from benchmarks.cases import epoch
from tests.support.micro import MICRO


def test_an_epoch_is_the_sum_of_its_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "REPLAY_FRAMES", 200)
    found = epoch.measure("tiny", 2, *(s for s in MICRO if not s.startswith(("evaluation", "logging"))))
    phases = found["phases"]
    parts = ("tokenizer", "world model", "actor critic")
    expected = [f"{part}, {what}" for part in parts for what in ("data", "gradient")]
    assert list(phases) == ["acting", *expected[:2], "coding of the replay", *expected[2:]]
    for precision in epoch.PRECISIONS:
        assert sum(each[precision]["share"] for each in phases.values()) == pytest.approx(1)
        total = sum(each[precision]["clock"] for each in phases.values())
        assert total == pytest.approx(found["epoch_clock_seconds"][precision])
    assert phases["tokenizer, gradient"]["units"] == 3 and phases["acting"]["units"] == 24
    assert all(phases[name]["ratio"] > 0 for name in phases)


def test_a_phase_compares_rounds_of_the_same_number() -> None:
    times = {"float32": [(4.0, 5.0), (8.0, 9.0), (3.0, 3.0)], "bf16": [(2.0, 2.0), (2.0, 4.0), (1.0, 1.0)]}
    found = epoch.phase(10, times)
    assert found["float32"] == {"processor": 40.0, "clock": 50.0} and found["bf16"]["clock"] == 20.0
    assert found["ratio"] == 3.0

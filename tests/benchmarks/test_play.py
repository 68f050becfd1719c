"""The case that measures the page of play, and the table made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.record import Record
from benchmarks.report import measured


def test_rates_and_key_times_are_measured_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra play")
    pytest.importorskip("websockets", reason="needs the extra play")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which --device cpu sets
    assert (
        main(["--only", "play", "--quick", "--device", "cpu", "--threads", "1", "--json", str(tmp_path)]) == 0
    )
    found = Record.read(tmp_path / "play.json").result.facts
    assert set(found["frames_a_second"]) == {"real", "dream", "fork"}
    assert all(0 < rate < 75 for sides in found["frames_a_second"].values() for rate in sides.values())
    times = [side for sides in found["key_seconds"].values() for side in sides.values()]
    assert len(times) == 4 and all(0 < each["median"] <= each["p95"] for each in times)
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    table = measured.play_table()
    assert table.count("\n| ") == 7 and "everything drawn" in table

"""The case that measures a sweep, and the table made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.record import Record
from benchmarks.report import measured


@pytest.mark.slow
def test_sides_are_timed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra `sweep` (ray) is not installed")
    assert main(["--only", "sweep", "--quick", "--device", "cpu", "--json", str(tmp_path)]) == 0
    found = Record.read(tmp_path / "sweep.json").result
    overhead, two = found.sizes
    task, plain = (overhead.seconds[side].median for side in ("as a Ray task", "its commands alone"))
    assert found.facts["overhead_seconds_a_run"] == pytest.approx(task - plain, abs=1e-3)
    assert len(two.seconds) == 3 and found.facts["ray_start_seconds"] > 0
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    table = measured.sweep_table()
    assert table.count("\n| ") == 6 and "at once, a core each" in table

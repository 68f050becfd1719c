"""The case that measures one agent on two processes, and the tables of it, of links, and of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.cases.memory import peaks
from benchmarks.cases.processes import ALONE, TOGETHER, communication
from benchmarks.record import Circumstances, Label, Record, Result, Size
from benchmarks.report import measured, processes

from .made_up import spread


def test_communication_is_the_time_of_whoever_came_last() -> None:
    assert communication([{"collectives": 0.5}, {"collectives": 0.2}]) == pytest.approx((0.2, 0.3))


def test_a_sum_takes_its_bytes_over_the_bandwidth_and_a_fixed_time() -> None:
    assert processes.collective_seconds(4e6, 1e9, 1e-4, 2) == pytest.approx(4e-3 + 1e-4)
    assert processes.collective_seconds(4e6, 1e9, 0.0, 4) == pytest.approx(6e-3)
    table = processes.links_table()
    paper = next(line for line in table.splitlines() if line.startswith("| paper world model"))
    count = processes.gradient_bytes("paper")["world_model"]
    assert f"| {count / 1e6:.1f} MB |" in paper and count > 30e6
    share = float(paper.split("|")[3].removesuffix(" µs ")) * 1e-6
    whole = float(paper.split("|")[6].removesuffix(" ms ")) * 1e-3
    assert share / (share + whole / processes.GPUS) == pytest.approx(processes.SHARE, rel=0.01)


def test_memory_of_rows_is_divided_and_the_rest_is_not() -> None:
    found = measured.facts("memory")
    parts, limit = found["float32"]["bytes"], found["reconstruction_cache_limit"]
    assert processes.bytes_of_each(parts, 1) == parts
    two, four = processes.bytes_of_each(parts, 2), processes.bytes_of_each(parts, 4, growth=2)
    assert two == pytest.approx(four)
    assert two["kv_cache"] == parts["kv_cache"] / 2 and two["replay"] == parts["replay"]
    assert two["weights_gradients_adam"] > parts["weights_gradients_adam"]
    row = processes.process_memory_table().splitlines()[2].split("|")
    assert row[1].strip() == "1" and row[2].strip() == f"{max(peaks(parts, limit).values()) / 1e9:.1f} GB"
    fits = processes.bytes_of_each(parts, 1, int(row[3].split()[0]))
    more = processes.bytes_of_each(parts, 1, int(row[3].split()[0]) + 1)
    assert max(peaks(fits, limit).values()) <= 22e9 < max(peaks(more, limit).values())


def test_the_table_says_what_was_measured_and_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    assert processes.processes_table().startswith("Not recorded yet: `python -m benchmarks --only processes")
    what: dict[str, Label] = {"preset": "paper", "part": "world_model", "batch": 4}
    more = {"communication": 0.1, "waiting": 0.02, "sum_alone": 0.1}
    sizes = [
        Size(what, seconds={TOGETHER: spread(1.0), ALONE: spread(1.5)}, more=more),
        Size(what | {"part": "tokenizer"}, missing="its loss differs: not timed"),
    ]
    facts = {"peak_gigabytes": {"paper": {TOGETHER: 2.0, ALONE: 3.0}}}
    Record("processes", Result(sizes, facts=facts), Circumstances.here()).write(tmp_path)
    table = processes.processes_table()
    share = 0.1 / (0.1 + 0.9 * 64 / 4)  # of the paper's 64 segments
    assert f"| 1.5 s | 1 s (1.50×) | 100 ms (10.0%) | 20 ms | {share:.1%} |" in table
    assert "its loss differs: not timed" in table and "paper: 2.0 GB each of two, 3.0 GB alone" in table


@pytest.mark.slow
def test_both_sides_have_one_loss_and_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--only", "processes", "--quick", "--device", "cpu", "--json", str(tmp_path)]) == 0
    found = Record.read(tmp_path / "processes.json").result
    assert len(found.sizes) == 6
    for size in found.sizes:
        assert set(size.seconds) == {TOGETHER, ALONE}, size.missing
        assert 0 < size.more["communication"] < size.seconds[TOGETHER].median
    assert found.facts["gradient_bytes"]["paper"] == processes.gradient_bytes("paper")
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    assert processes.processes_table().count("\n| ") == 7

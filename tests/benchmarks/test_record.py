"""Records of measurements: every committed file is valid, and other content is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.record import SCHEMA, Circumstances, Record, Result, checkout_version
from benchmarks.registry import CASES
from iris_fast.errors import UserError

from .made_up import made_up_results

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FILES = sorted(path for path in RESULTS.rglob("*.json") if path.name != "kernels_baseline.json")
MOST = 800_000  # bytes of all committed results


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(RESULTS)) for path in FILES])
def test_every_committed_file_is_a_record_of_a_case(path: Path) -> None:
    record = Record.read(path)
    assert record.case == path.stem and (record.case in CASES or record.case.startswith("run"))
    assert record.circumstances.commit and record.circumstances.machine.processor and not record.quick
    for size in record.result.sizes:
        assert size.what and (size.seconds or size.missing)


def test_committed_results_are_small() -> None:
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < MOST


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for name, result in made_up_results().items():
        record = Record(name, result, Circumstances.here(), wall_seconds=1.5, reference="abc")
        again = Record.read(record.write(tmp_path))
        assert again == Record.read(again.write(tmp_path))  # with as many digits as files have
        assert replace(again, result=Result()) == replace(record, result=Result())
        for found, size in zip(again.result.sizes, result.sizes, strict=True):
            assert (found.what, found.units, found.missing) == (size.what, size.units, size.missing)
            medians = {side: spread.median for side, spread in size.seconds.items()}
            assert {side: spread.median for side, spread in found.seconds.items()} == pytest.approx(medians)


def test_numbers_are_written_with_few_digits_and_what_is_usual_is_left_out(tmp_path: Path) -> None:
    path = Record("memory", Result(facts={"bytes": 1 / 3}), Circumstances.here()).write(tmp_path)
    content = json.loads(path.read_text())
    assert content["result"] == {"facts": {"bytes": 0.333333}} and content["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": None}, "its schema is None, this version reads 2"),
        ({"more": 1}, "more, which there is not"),
        ({"quick": "no"}, "quick is 'no'"),
        ({"circumstances": {}}, "circumstances lacks a part"),
        ({"result": {"sizes": [{"what": {"batch": 1.5}}]}}, r"result.sizes\[0\].what.batch is '1.5'"),
        ({"result": {"sizes": [{"what": {}, "seconds": {"ours": 1.0}}]}}, "seconds.ours is '1.0'"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = Record("memory", Result(), Circumstances.here()).write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=rf"memory.json is no record of a measurement: .*{said}"):
        Record.read(path)
    path.write_text("[1]")
    with pytest.raises(UserError, match="no record"):
        Record.read(path)


def test_a_checkout_is_known_by_its_sources(tmp_path: Path) -> None:
    assert checkout_version(None) is None
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "agent.py").write_text("a = 1")
    before = checkout_version(tmp_path)
    assert before is not None and before.startswith("sources ") and before == checkout_version(tmp_path)
    (tmp_path / "src" / "agent.py").write_text("a = 2")
    assert checkout_version(tmp_path) != before

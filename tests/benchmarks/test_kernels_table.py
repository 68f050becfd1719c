from __future__ import annotations

import re
from pathlib import Path

import pytest

import iris_fast.kernels
from benchmarks.kernels import timed_operations
from benchmarks.record import Circumstances, Record, Result, Size
from benchmarks.report import kernels as kernels_table
from benchmarks.report.kernels import kernel_rows, side_by_side, signature

from .made_up import spreads

README = (Path(iris_fast.kernels.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_every_operation_with_a_reference_has_a_row_and_three_lines() -> None:
    names = {
        name.removesuffix("_reference") for name in iris_fast.kernels.__all__ if name.endswith("_reference")
    }
    assert set(timed_operations()) == names
    for name in names:
        section = re.search(rf"^### .*`{name}`.*?^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
        assert section is not None and f"{name}(" in section.group(1), name


def test_signatures_are_those_of_the_functions() -> None:
    expected = "group_norm_swish(x, num_groups, weight, bias, eps=1e-06, *, swish=True)"
    assert signature("group_norm_swish") == expected
    assert signature("lambda_returns") == "lambda_returns(rewards, values, ends, gamma, lambda_)"


def test_speed_is_beside_the_fastest_of_the_others() -> None:
    captured = Size({}, seconds=spreads(**{"ours ieee": 0.002, "ours tf32": 0.001, "a": 0.004, "b": 0.5}))
    waiting = Size({}, seconds=spreads(**{"ours ieee": 1.0, "c": 0.003}))
    assert side_by_side([waiting, captured], ("ours bf16", "ours ieee")) == "2 ms; c 1.5×"


def test_a_gpus_results_fill_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu").mkdir()
    monkeypatch.setattr(kernels_table, "RESULTS", tmp_path)
    assert {tuple(row[-2:]) for row in kernel_rows()} == {("–", "not measured yet")}
    (tmp_path / "h100").mkdir()
    seconds = spreads(ours=1e-6, pytorch=3e-6)
    sizes = [Size({"shape": shape}, seconds=seconds) for shape in ([1, 1], [64, 20])]
    Record("kernel_lambda_returns", Result(sizes), Circumstances.here()).write(tmp_path / "h100")
    cells = {row[0].split("`")[1]: row[-1] for row in kernel_rows()}
    assert cells["lambda_returns"] == "64 × 20: 0.001 ms; pytorch 3×"
    assert cells["vq_lookup"] == "–"

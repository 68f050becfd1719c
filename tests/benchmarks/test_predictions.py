"""Predictions for a GPU: how a step is counted, and the table beside what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import predictions
from benchmarks.first_contact import FORMS
from benchmarks.predictions import GAP, PHASE, Cost, Counter, kept, main, measured, table
from iris_fast.command_line import run_command
from tests.support.commands import Say


def test_a_convolution_with_a_bias_is_two_launches_forward_and_three_back() -> None:
    x = torch.ones(2, 4, 8, 8, requires_grad=True)
    weight, bias = torch.ones(4, 4, 3, 3, requires_grad=True), torch.ones(4, requires_grad=True)
    with Counter() as counter:
        y = F.conv2d(x, weight, bias, padding=1)
    flops = 2 * 2 * 4 * 64 * 4 * 9
    sizes = 4 * (2 * 2 * 4 * 64 + 4 * 4 * 9 + 4)
    assert (counter.cost.launches, counter.cost.flops) == (2, flops)
    assert counter.cost.bytes == sizes + 2 * 4 * y.numel()
    assert counter.cost.predicted == pytest.approx(2 * (GAP + 2 * PHASE))
    with Counter() as counter:
        y.backward(torch.ones_like(y))
    assert counter.cost.flops == 2 * flops and counter.cost.launches >= 3


def test_a_launch_takes_the_longest_of_its_bytes_products_and_waits() -> None:
    cost = Cost()
    cost.launch(3.9e9)
    assert cost.predicted == pytest.approx(GAP + 1e-3) and cost.floor == pytest.approx(3.9e9 / 4.8e12)
    cost.launch(0, flops=450e9)
    assert cost.predicted == pytest.approx(2 * GAP + 2e-3)
    assert (cost + cost * 2).launches == 6


def test_what_is_kept_is_above_its_floor_and_of_the_facts_of_the_first_contact() -> None:
    rows = kept()
    assert {f"rollout 64 × 20, {form}, ms" for form in FORMS[:2]} <= rows.keys()
    assert all(row["predicted"] > row["floor"] > 0 for row in rows.values())


def test_the_table_has_what_was_measured(tmp_path: Path, capsys: Say) -> None:
    rollout = "rollout 64 × 20, 5 launches, ms"
    (tmp_path / "rollouts.json").write_text(
        json.dumps({rollout: {"median": 1e3 * kept()[rollout]["predicted"]}})
    )
    (tmp_path / "parts.json").write_text(
        json.dumps({"draw of a token, us": 12.0, "policy step, ms": "FAILED x"})
    )
    (tmp_path / "training.json").write_text(json.dumps({"world_model step": {"ms": 20, "loss": 1.0}}))
    times = measured(tmp_path)
    assert times["draw of a token, us"] == pytest.approx(12e-6) and times["world_model step"] == 0.02
    assert main([str(tmp_path)]) == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["rollout 64 × 20, 5 launches"].endswith("1.00×") and "12 µs" in lines["draw of a token"]
    assert lines["policy step"].rstrip().endswith("–") and "measured" not in table(kept(), {})


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: Say) -> None:
    assert run_command(main, [str(tmp_path)]) == 2
    assert "unpack first.tar.gz there" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_kept_is_what_is_counted_now() -> None:
    now = json.loads(predictions.written(predictions.predicted_costs()))
    assert now == kept(), "python -m benchmarks.predictions --write"

"""The benchmarks' GPU code, as far as it can be tested without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cases import environments as environments_module
from benchmarks.cases import rollout as rollout_module
from benchmarks.cases import training_steps as steps_module
from benchmarks.cases.environments import environments
from benchmarks.cases.gradient_steps import _rollout_seconds
from benchmarks.cases.rollout import measure_rollout
from benchmarks.harness import Machine, Work
from benchmarks.plan import Cost
from benchmarks.record import Circumstances, Record, Result, Size
from benchmarks.registry import Run
from benchmarks.report import captured_projection
from benchmarks.report.captured_projection import project_captured, seconds_by_phase
from benchmarks.report.projection import paper_units
from benchmarks.systems.client import Systems
from iris_fast.agent import PARTS
from iris_fast.command_line import run_command
from iris_fast.errors import UserError
from iris_fast.graphs import Uncaptured
from tests.support.commands import Say
from tests.support.micro import MICRO

from .made_up import spreads

SMALL = [setting for setting in MICRO if not setting.startswith(("collection", "evaluation", "logging"))]


class Recorded:
    """A worker that notes what it is asked, and imagines frames of which no two are alike."""

    def __init__(self, kind: str, notes: list[tuple[Any, ...]]):
        self.kind, self.notes = kind, notes

    def call(self, method: str, *arguments: Any) -> Any:
        self.notes.append((self.kind, method, *(a for a in arguments if not isinstance(a, torch.Tensor))))
        if method == "rollout":
            return 1.0, {"tokens": torch.arange(arguments[1])[None, :, None].expand(1, -1, 16)}
        return None


class RecordedSystems(Systems):
    """On a GPU that is not there."""

    def __init__(self) -> None:
        super().__init__(torch.device("cuda"), 1, None, ())
        self.notes: list[tuple[Any, ...]] = []

    def start(self, kind: str, checkout: Path | None, environment: dict[str, str] | None) -> Any:
        return Recorded(kind, self.notes)


def test_sides_are_compared_exactly_and_others_timed_as_pytorch_comes() -> None:
    systems = RecordedSystems()
    for side in ("ours", "public"):
        with systems.exactly(side):
            systems.notes.append((side, "compared"))
    assert systems.notes == [
        *(("engine", "exactly", True), ("ours", "compared")),
        *(("public", "exactly", True), ("public", "compared"), ("public", "exactly", False)),
    ]


def test_rollouts_are_warmed_up_at_their_own_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_module, "rollout_work", lambda *_: Work())
    systems = RecordedSystems()
    measure_rollout(Run(True, systems), ["ours", "public"], 2, 5, [Cost(1, 1.0)])
    horizons = [note[2] for note in systems.notes if note[1] == "rollout"]
    assert len(horizons) >= 5 and set(horizons) == {5}


def test_a_rollout_beside_a_gradient_step_is_warmed_up_too() -> None:
    systems = RecordedSystems()
    seconds = _rollout_seconds(Run(True, systems), ["ours", "public"], 2, 5, 1)
    assert seconds == {"ours": 1.0, "public": 1.0}
    calls = [(kind, *rest) for kind, method, *rest in systems.notes if method == "rollout"]
    assert calls[:2] == [("engine", 5, 0), ("public", 5, 0)] and len(calls) == 4


def test_environments_are_timed_with_the_backend_there_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    find = environments_module.find_spec
    monkeypatch.setattr(environments_module, "find_spec", lambda name: name != "envpool" and find(name))
    (size,) = environments(run).sizes
    assert list(size.seconds) == ["ale"]
    monkeypatch.setattr(environments_module, "find_spec", lambda name: None)
    assert "neither" in environments(run).sizes[0].missing


def test_captured_steps_are_timed_with_what_they_spend_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "graphs_of", Uncaptured)
    machine = Machine(torch.device("cpu"), 1.0, {"float32": 1e9}, 1)
    monkeypatch.setattr(steps_module, "measured_machine", lambda *_: machine)
    found = steps_module.measure("tiny", 1, *SMALL, operations=True)
    assert found["captured"] and set(found["acting"]) == {"1", "8"} and found["coding_a_frame"] > 0
    for name in (*PARTS, "rollout"):
        operations = found[name]["operations"]
        assert 0 < operations["largest"][0]["seconds"] <= operations["seconds"]
        named = len(
            operations["largest"]
        )  # a rollout of the C++ engine is one call, with few operators beside it
        assert operations["calls"] >= named and (named == 15 if name in PARTS else 1 <= named <= 15)
    for name in PARTS:
        share = found[name]["flops"] / found[name]["median"] / 1e9
        assert 0 < found[name]["share_of_matrix_rate"] == pytest.approx(share)


def test_a_step_that_is_interrupted_leaves_the_others_their_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(preset: str, repeats: int, *overrides: str, operations: bool, found: dict[str, Any]) -> None:
        found["preset"] = preset
        if "common.precision=float32" in overrides:
            raise KeyboardInterrupt
        found["operations"] = operations

    monkeypatch.setattr(steps_module, "measure", measure)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Run, "machine", lambda _: Machine(torch.device("cpu"), 1.0, {}, 1))
    found = steps_module.training_steps(Run(True, RecordedSystems()))
    assert found.facts == {
        "bf16": {"preset": "tiny", "operations": True},
        "float32": {"preset": "tiny", "error": "interrupted"},
    }


def timing(median: float) -> dict[str, float]:
    return {"median": median}


SIDE = {
    "preset": "paper",
    "acting": {"1": timing(1e-3), "8": timing(2e-3)},
    "coding_a_frame": 1e-5,
    **{part: timing(0.01 * (index + 1)) for index, part in enumerate(PARTS)},
}
PLAYED = [
    Size({"environments": 1, "steps": 100}, seconds=spreads(ale=0.1)),
    Size({"environments": 8, "steps": 100}, seconds=spreads(ale=0.8, envpool=0.4)),
]


def test_hours_of_a_captured_run_are_units_times_seconds() -> None:
    _, units = paper_units()
    found = seconds_by_phase(SIDE, {1: 1e-3, 8: 4e-3})
    assert found["collection"] == pytest.approx(100_000 * (1e-3 + 1e-3))
    assert found["world_model"] == pytest.approx(units.steps["world_model"] * 0.02)
    assert found["evaluation"] == pytest.approx(
        (units.test_vector_steps + units.final_vector_steps) * (4e-3 + 2e-3)
    )
    assert found["cache"] == pytest.approx(max(units.frames_cached, units.frames_decoded) * 1e-5)
    result = project_captured({"bf16": SIDE, "float32": {"error": "out of memory"}}, Result(PLAYED))
    assert result["hours"] == {"bf16": pytest.approx(sum(found.values()) / 3600)}


def test_nothing_is_projected_from_nothing(tmp_path: Path, capsys: Say) -> None:
    with pytest.raises(UserError, match="no step of the paper's agent"):
        project_captured({"bf16": {"error": "x"}, "float32": SIDE | {"preset": "tiny"}}, Result(PLAYED))
    with pytest.raises(UserError, match="environments was not measured with environments 8"):
        project_captured({"bf16": SIDE}, Result(PLAYED[:1]))
    assert run_command(captured_projection.main, [str(tmp_path)]) == 2
    assert "training_steps.json is not there" in capsys.readouterr().err


def test_the_command_writes_what_it_says(tmp_path: Path, capsys: Say) -> None:
    for case, result in (
        ("training_steps", Result(facts={"bf16": SIDE})),
        ("environments", Result(PLAYED)),
    ):
        Record(case, result, Circumstances.here()).write(tmp_path)
    assert captured_projection.main([str(tmp_path)]) == 0
    hours = Record.read(tmp_path / "captured_projection.json").result.facts["hours"]["bf16"]
    assert capsys.readouterr().out == f"{'bf16':12} {hours:6.2f} h\n"

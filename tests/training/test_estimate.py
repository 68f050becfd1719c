"""The estimate of a run's duration uses real steps and leaves the weights unchanged."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_fast.agent import PARTS
from iris_fast.config import resolve
from iris_fast.graphs import Tensors, Uncaptured
from iris_fast.training import builder, estimate
from iris_fast.training.estimate import scheduled_phases
from iris_fast.training.graphed_step import GraphedPartTrainer
from iris_fast.training.trainer import Trainer
from tests.support.commands import run_evaluate, run_train, train_micro
from tests.support.micro import micro_config


def losses(run: Path) -> list[dict[str, float]]:
    """By epoch, what was learned and played: all metrics but times, rates and memory."""
    lines = (run / "logs" / "metrics.jsonl").read_text().splitlines()
    dropped = ("duration/", "rates/", "memory/", "time")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(dropped)} for line in lines]


class Slow(Uncaptured):
    """Captures that take a minute each, on a clock that tells of nothing else but a millisecond a look."""

    now = 0.0
    captures = 0

    def capture(self, function: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        Slow.now += 60
        Slow.captures += 1
        return super().capture(function)

    @staticmethod
    def clock() -> float:
        Slow.now += 1e-3
        return Slow.now


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[Slow]:
    """A CPU whose trainer captures, as on a GPU."""
    Slow.now, Slow.captures = 0.0, 0
    monkeypatch.setattr("iris_fast.training.trainer.graphs_of", Slow)
    return Slow


def test_a_captured_run_is_the_plain_one_though_it_was_rehearsed(
    tmp_path: Path, slow: type[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_micro(tmp_path / "captured") == 0
    # Three steps and acting for 2 environments in collection and in tests, all before the first epoch, but once.
    assert slow.captures == len(PARTS) + 1
    monkeypatch.undo()
    assert train_micro(tmp_path / "plain") == 0
    found, expected = losses(tmp_path / "captured"), losses(tmp_path / "plain")
    assert len(found) == 3 and "actor_critic/train/total_loss" in found[-1]
    assert found == expected


def test_capturing_is_not_counted_and_changes_nothing(
    tmp_path: Path, slow: type[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    estimated = builder.estimate_seconds_per_unit

    def watched(trainer: Trainer) -> dict[str, float]:
        seen["before"] = [p.detach().clone() for p in trainer.agent.parameters()]
        return estimated(trainer)

    def look(self: Trainer) -> None:
        seen["trainer"] = self

    monkeypatch.setattr(builder, "estimate_seconds_per_unit", watched)
    monkeypatch.setattr(Trainer, "run", look)
    for clock in ("perf_counter", "thread_time"):
        monkeypatch.setattr(estimate.time, clock, slow.clock)
    assert train_micro(tmp_path / "run") == 0
    trainer = seen["trainer"]
    assert slow.now > 60 * len(PARTS)
    assert {"collection", "evaluation", *PARTS} == set(trainer.priors)
    assert all(0 < trainer.priors[name] < 0.1 for name in PARTS)
    assert all(map(torch.equal, trainer.agent.parameters(), seen["before"]))
    for part in trainer.parts.values():
        assert isinstance(part, GraphedPartTrainer)
        states = [value for state in part.optimizer.state.values() for value in state.values()]
        assert states and not any(value.any() for value in states)


def test_phases_that_a_run_will_not_have_are_not_rehearsed(tmp_path: Path, slow: type[Slow]) -> None:
    assert train_micro(tmp_path / "run", "common.epochs=1", "evaluation.should=false") == 0
    assert slow.captures == 2 + 1  # the actor-critic starts after the first epoch
    config = resolve(micro_config())
    assert scheduled_phases(config, 1) == {"collection", "evaluation", *PARTS}
    assert scheduled_phases(resolve(micro_config("common.epochs=1")), 1) >= {"collection", "world_model"}
    assert "actor_critic" not in scheduled_phases(resolve(micro_config("common.epochs=1")), 1)


@pytest.mark.gpu
def test_on_a_gpu_a_run_trains_plays_and_is_evaluated(tmp_path: Path) -> None:
    """From the command line, everything captured, in bfloat16, past a resume."""
    run, device = tmp_path / "run", ("common.device=cuda", "common.precision=bf16")
    assert train_micro(run, *device, "common.epochs=2") == 0
    assert run_train("--resume", run, "common.epochs=3") == 0
    found = losses(run)
    assert len(found) == 3 and "actor_critic/train/total_loss" in found[-1]
    assert all(math.isfinite(value) for epoch in found for value in epoch.values())
    assert run_evaluate(run, "--episodes", 4, "--device", "cuda") == 0


def test_other_processes_do_not_lengthen_the_estimate_on_a_cpu() -> None:
    """A pause stands for the time in which they have the processor."""

    def interrupted() -> None:
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass
        time.sleep(0.1)

    seconds = estimate._seconds(interrupted, torch.device("cpu"))
    assert 0.01 <= seconds < 0.05

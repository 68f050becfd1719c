"""Stops a run at any step, and compares stopped runs with uninterrupted ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_fast.training.loggers import read_metrics
from iris_fast.training.run_folder import RunFolder
from iris_fast.training.trainer import Trainer

# What may differ between two runs that compute the same: how long things took, and in how much memory.
TIMED = ("time", "duration/", "rates/", "memory/")


def numbers(run: Path) -> list[dict[str, float]]:
    """The logged metrics without times."""
    return [
        {key: value for key, value in line.items() if not key.startswith(TIMED)} for line in read_metrics(run)
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(RunFolder(run).checkpoint, weights_only=True)["agent"]


def assert_same_run(run: Path, other: Path) -> None:
    assert numbers(run) == numbers(other)
    own, others = weights(run), weights(other)
    assert own.keys() == others.keys()
    for name, value in own.items():
        assert torch.equal(value, others[name]), name


class StopAt:
    """Sends this process a signal at a step of a phase, as a user or a scheduler would at any moment."""

    def __init__(self, phase: str, epoch: int, number: int):
        self.phase, self.epoch, self.number = phase, epoch, number
        self.sent = False

    def __call__(self, trainer: Trainer) -> None:
        position = trainer.position
        if not self.sent and position.phase == self.phase and position.epoch == self.epoch:
            self.sent = True
            os.kill(os.getpid(), self.number)


def stop_during(monkeypatch: pytest.MonkeyPatch, stop: Callable[[Trainer], None]) -> None:
    """Calls `stop` before each gradient step and each vector step of collection."""
    from iris_fast.training.collector import Collector
    from iris_fast.training.optimization import PartTrainer

    trainers: list[Trainer] = []
    make, part_step, collector_step = Trainer.__init__, PartTrainer.step, Collector._step

    def remember(self: Trainer, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        trainers.append(self)

    def step(self: PartTrainer, seed: int, epoch: int, number: int) -> dict[str, torch.Tensor]:
        if number == 1:
            stop(trainers[-1])
        return part_step(self, seed, epoch, number)

    def collect(self: Collector, finished: dict[str, list[float]]) -> None:
        if trainers[-1].position.step == 8:
            stop(trainers[-1])
        collector_step(self, finished)

    monkeypatch.setattr(Trainer, "__init__", remember)
    monkeypatch.setattr(PartTrainer, "step", step)
    monkeypatch.setattr(Collector, "_step", collect)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)

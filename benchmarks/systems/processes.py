"""Gradient steps of a preset as training takes them, by a process alone or by one of several that train together."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from benchmarks.cases.token_cache import ACTIONS, filled_store
from iris_fast.agent import Agent
from iris_fast.config import apply_overrides, preset_config
from iris_fast.models.perceptual import LPIPS
from iris_fast.replay.cache import FrameCache
from iris_fast.training.device import engine_of, peak_memory, prepare
from iris_fast.training.distributed import ALONE, Group, joined_processes
from iris_fast.training.graphed_step import make_part_trainer
from iris_fast.training.optimization import PartTrainer
from iris_fast.training.parts import make_parts

FRAMES = 400  # in the replay, all of them in the epoch's cache
COLLECTIVES = ("add_up", "mean", "largest")  # of `Group`, in a gradient step


class ProcessSteps:
    """The system of the case `processes`. Its methods are called in all processes of a group at once."""

    def __init__(self) -> None:
        self.group: Group = ALONE
        self.collective_seconds = 0.0  # so far
        self._ends = ExitStack()
        self._trainers: dict[str, PartTrainer] = {}

    def join(self) -> None:
        """Joins the group that this process's variables announce."""
        self.group = self._ends.enter_context(joined_processes())
        for name in COLLECTIVES:
            setattr(self.group, name, self._watched(getattr(self.group, name)))

    def _watched(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return collective(*arguments)
            finally:
                self.collective_seconds += time.perf_counter() - began

        return call

    def begin(self, preset: str, overrides: list[str]) -> dict[str, int]:
        """Makes an agent, the same everywhere, and its trainers; returns the bytes of each part's gradient."""
        config, device = prepare(apply_overrides(preset_config(preset, "Pong"), overrides))
        torch.manual_seed(0)
        agent = Agent(config.agent, ACTIONS).to(device).eval()
        if config.tokenizer.perceptual == "lpips":
            agent.tokenizer.attach_lpips(LPIPS().to(device))  # any weights will do for timing
        store = filled_store(FRAMES, config.env.train.size, seed=0, device=device)
        cache = FrameCache(agent.coder, store, max_bytes=10**10)
        parts = make_parts(agent, config, cache, engine_of(agent, config.common), group=self.group)
        self._trainers = {name: make_part_trainer(part, None) for name, part in parts.items()}
        self._agent, self._cache, self._slots = agent, cache, np.arange(1, store.num_frames + 1)
        return {name: 4 * sum(p.numel() for p in part.parameters) for name, part in parts.items()}

    def prepare(self, part: str) -> None:
        """Sets the models to the part's modes, and fills the cache, as some steps into an epoch's phase."""
        self._agent.eval()
        self._trainers[part].part.module.train()
        if part != "tokenizer":
            self._cache.reconstructions(self._slots)

    def losses(self) -> dict[str, float]:
        """Every part's loss of the whole batch, with nothing changed."""
        found = {}
        for name, trainer in self._trainers.items():
            self._agent.eval()
            trainer.part.module.train()
            torch.manual_seed(0)
            inputs = trainer.part.inputs(0)
            with torch.no_grad(), self.group.dropout(0, trainer.device):
                pieces = [torch.stack(list(losses.values())).sum() for losses in trainer.part.losses(inputs)]
            found[name] = float(self.group.mean(torch.stack(pieces).mean()))
        return found

    def step(self, part: str, number: int) -> dict[str, float]:
        """Takes one step with the collectives of a run; its seconds, and those within collectives."""
        self.collective_seconds = 0.0
        began = time.perf_counter()
        self._trainers[part].step(0, 1, number)
        self.group.largest(0)  # whether a signal came
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "collectives": self.collective_seconds}

    def sum_seconds(self, part: str, times: int) -> list[float]:
        """Seconds of the sum over processes of the part's gradient, when all come to it together."""
        flat = torch.zeros(sum(p.numel() for p in self._trainers[part].parameters))
        found = []
        for _ in range(times):
            self.group.largest(0)
            began = time.perf_counter()
            self.group.add_up(flat)
            found.append(time.perf_counter() - began)
        return found

    def memory(self) -> dict[str, float]:
        """Peak memory of this process, in gigabytes."""
        return peak_memory(torch.device("cpu"))

"""Where an epoch of a preset goes on a CPU: seconds of its phases with gradient steps in float32 and in bf16."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.cases.token_cache import ACTIONS, filled_store
from benchmarks.cases.training_steps import acting
from benchmarks.record import Ceilings, Result
from benchmarks.registry import Run, case
from iris_fast.agent import PARTS, Agent
from iris_fast.config import apply_overrides, preset_config
from iris_fast.replay.cache import FrameCache
from iris_fast.training.device import engine_of, prepare
from iris_fast.training.optimization import PartTrainer
from iris_fast.training.parts import make_parts

REPLAY_FRAMES = 4000  # what the cache of an epoch codes
PRECISIONS = ("float32", "bf16")
Seconds = tuple[float, float]  # of this process's threads on their processors, and on the clock


def seconds_of(function: Callable[[], object]) -> Seconds:
    """Seconds of a call."""
    began, started = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - began, time.perf_counter() - started


def update(trainer: PartTrainer, inputs: Any) -> None:
    """A gradient step on a batch."""
    trainer.part.module.train()
    trainer.optimizer.zero_grad(set_to_none=True)
    metrics: dict[str, torch.Tensor] = {}
    trainer._accumulate(inputs, metrics)
    trainer._clip(metrics)
    trainer._update()
    trainer.part.module.eval()


def measure(preset: str, rounds: int, *overrides: str) -> dict[str, Any]:
    """Seconds of an epoch by phase, each the units of an epoch times the median of one unit over `rounds` in turn.

    `units`: of an epoch; by precision `processor` and `clock` seconds an epoch, `share` of its clock; `ratio`:
    median over the rounds of float32's processor time by bf16's. What does not depend on the precision is measured
    once: the data of a batch, which both take. Of environments only acting is counted.
    """
    asked = ["common.device=cpu", "common.precision=float32", *overrides]
    config, device = prepare(apply_overrides(preset_config(preset, "Pong"), asked))
    torch.manual_seed(0)
    agent = Agent(config.agent, ACTIONS).eval()
    store = filled_store(REPLAY_FRAMES, config.env.train.size, 0, device)
    cache, engine = FrameCache(agent.coder, store, max_bytes=4 * 10**9), engine_of(agent, config.common)
    trainers = {
        precision: {
            name: PartTrainer(part)
            for name, part in make_parts(agent, config, cache, engine, precision).items()
        }
        for precision in PRECISIONS
    }
    acted = acting(agent, None, config.collection.train.num_envs, 10 * rounds)["median"]
    phases = {"acting": phase(config.collection.train.config.num_steps, in_both((acted, acted)))}
    for name in PARTS:
        data, steps = in_turn({precision: own[name] for precision, own in trainers.items()}, rounds)
        units, title = getattr(config.training, name).steps_per_epoch, name.replace("_", " ")
        phases[f"{title}, data"] = phase(units, dict.fromkeys(PRECISIONS, data))
        phases[f"{title}, gradient"] = phase(units, steps)
        if name == "tokenizer":  # whose frames are from here on the epoch's
            coding = seconds_of(lambda: cache.reconstructions(np.arange(1, store.num_frames + 1)))
            phases["coding of the replay"] = phase(1, in_both(coding))
    whole = {p: sum(entry[p]["clock"] for entry in phases.values()) for p in PRECISIONS}
    for entry in phases.values():
        for precision in PRECISIONS:
            entry[precision]["share"] = entry[precision]["clock"] / whole[precision]
    facts = {
        "preset": preset,
        "overrides": list(overrides),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
    }
    return facts | {"replay_frames": store.num_frames, "epoch_clock_seconds": whole, "phases": phases}


def in_turn(trainers: dict[str, PartTrainer], rounds: int) -> tuple[list[Seconds], dict[str, list[Seconds]]]:
    """Seconds of a batch's data, and by precision of a gradient step on it, after a round that warms up."""
    data: list[Seconds] = []
    steps: dict[str, list[Seconds]] = {precision: [] for precision in PRECISIONS}
    gathered: list[Any] = []

    def gather(seed: int) -> None:
        gathered[:] = [trainers[PRECISIONS[0]].part.inputs(seed)]

    for number in range(rounds + 1):
        data.append(seconds_of(partial(gather, number)))
        for precision in PRECISIONS if number % 2 else PRECISIONS[::-1]:
            steps[precision].append(seconds_of(partial(update, trainers[precision], gathered[0])))
    return data[1:], {precision: seconds[1:] for precision, seconds in steps.items()}


def in_both(seconds: Seconds) -> dict[str, list[Seconds]]:
    """What the precision of gradient steps does not change."""
    return {precision: [seconds] for precision in PRECISIONS}


def phase(units: int, times: dict[str, list[Seconds]]) -> dict[str, Any]:
    """A phase's entry, from (processor, clock) seconds of its units by precision, round by round."""
    found: dict[str, Any] = {"units": units}
    for precision, rounds in times.items():
        processor, clock = (statistics.median(kind) for kind in zip(*rounds, strict=True))
        found[precision] = {"processor": units * processor, "clock": units * clock}
    pairs = zip(times["float32"], times["bf16"], strict=True)
    found["ratio"] = statistics.median(exact[0] / max(half[0], 1e-9) for exact, half in pairs)
    return found


@case("epoch", minutes=3)
def epoch(run: Run) -> Result:
    """Where an epoch of the preset small goes on a CPU, with gradient steps in float32 and in bf16."""
    found = measure("tiny", 1) if run.quick else measure("small", run.rounds or 7)
    return Result(ceilings=Ceilings("cpu"), facts=found)

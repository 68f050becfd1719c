"""Seconds of each gradient step and of a rollout: what an epoch is made of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cases.token_cache import ACTIONS, filled_store
from benchmarks.registry import case
from iris_fast.agent import Agent
from iris_fast.config import preset_config
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.replay.cache import FrameCache
from iris_fast.training.builder import prepare
from iris_fast.training.optimization import PartTrainer, adam, adamw
from iris_fast.training.part_losses import (
    imagination_start,
    imagined_losses,
    tokenizer_frames,
    world_model_losses,
)

Losses = dict[str, torch.Tensor]


def timed(function: Callable[[int], object], repeats: int, device: torch.device) -> dict[str, float]:
    """Median and extremes of the seconds of `function`, called once before to warm up."""
    seconds = []
    for repeat in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        function(repeat)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    warm = seconds[1:]
    return {"median": statistics.median(warm), "min": min(warm), "max": max(warm), "first": seconds[0]}


def measure(preset: str, repeats: int) -> dict[str, Any]:
    """Seconds of the three steps and of one rollout with a preset on this machine's device."""
    config, device = prepare(preset_config(preset, "Pong"))
    agent = Agent(config.agent, ACTIONS).to(device)
    store = filled_store(2000, config.env.train.size, seed=0)
    store.model_device = device
    cache = FrameCache(agent.tokenizer, store, max_bytes=4 * 10**9)
    engine = OracleEngine(agent)
    training, length = config.training, config.common.sequence_length or 1
    part = training.actor_critic
    horizon = part.imagine_horizon or 1

    def tokenizer(seed: int) -> list[Losses]:
        frames = tokenizer_frames(store, training.tokenizer.batch_num_samples, seed)
        return [agent.tokenizer.losses(piece) for piece in frames.chunk(training.tokenizer.pieces)]

    world_model = lambda seed: [  # noqa: E731
        world_model_losses(agent, cache, training.world_model.batch_num_samples, length, seed)
    ]
    actor_critic = lambda seed: [  # noqa: E731
        imagined_losses(agent, cache, engine, config, part.batch_num_samples, seed)
    ]
    rate = training.learning_rate
    trainers = {
        "tokenizer": (adam(agent.tokenizer.trained_parameters(), rate), tokenizer, training.tokenizer.pieces),
        "world_model": (adamw(agent.world_model, rate, 0.01), world_model, 1),
        "actor_critic": (adam(list(agent.actor_critic.parameters()), rate), actor_critic, 1),
    }
    found: dict[str, Any] = {"preset": preset, "device": str(device), "precision": config.common.precision}
    for name, (optimizer, losses, pieces) in trainers.items():
        agent.eval()
        agent.get_submodule(name).train()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        trainer = PartTrainer(
            name, getattr(training, name), parameters, optimizer, losses, config.common.precision, pieces
        )
        found[name] = timed(lambda step, t=trainer: t.step(0, 1, step), repeats, device)  # type: ignore[misc]
    agent.eval()
    start = imagination_start(cache, part.batch_num_samples, part.burn_in, 0)
    found["rollout"] = timed(lambda step: engine.imagine(start, horizon, step), repeats, device)
    if device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


@case("training_steps", minutes=3)
def training_steps(quick: bool) -> dict[str, Any]:
    """Seconds of the tokenizer, world-model and actor-critic step and of a rollout (small on CPU, paper on GPU)."""
    preset = "paper" if torch.cuda.is_available() else "small"
    return measure("tiny" if quick else preset, 1 if quick else 10)

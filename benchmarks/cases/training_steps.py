"""Seconds of each gradient step and of a rollout: what an epoch is made of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from benchmarks.cases.token_cache import ACTIONS, filled_store
from benchmarks.registry import case
from iris_fast.agent import PARTS, Agent
from iris_fast.config import Config, apply_overrides, preset_config
from iris_fast.graphs import CudaGraphs, Graphs, Tensors
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.imagination.factory import engine_of
from iris_fast.models.perceptual import LPIPS
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.builder import prepare
from iris_fast.training.graphed_step import is_captured, make_part_trainer
from iris_fast.training.optimization import Losses, PartTrainer, adam, adamw
from iris_fast.training.part_losses import (
    imagination_start,
    imagined_inputs,
    rollout_losses,
    segment_losses,
    tokenizer_frames,
    world_model_inputs,
)
from iris_fast.training.precision import autocast


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


def measure(preset: str, repeats: int, *overrides: str) -> dict[str, Any]:
    """Seconds of the three steps and of one rollout with a preset on this machine's device."""
    config, device = prepare(apply_overrides(preset_config(preset, "Pong"), list(overrides)))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    agent = Agent(config.agent, ACTIONS).to(device)
    agent.tokenizer.attach_lpips(LPIPS().to(device))  # its weights are as good as any for its time
    store = filled_store(2000, config.env.train.size, 0, device)
    cache = FrameCache(agent.tokenizer, store, max_bytes=4 * 10**9)
    engine = engine_of(agent, config.common)
    graphs = CudaGraphs(device) if device.type == "cuda" and config.training.cuda_graphs else None
    part = config.training.actor_critic
    found: dict[str, Any] = {
        "preset": preset,
        "overrides": list(overrides),
        "device": str(device),
        "precision": config.common.precision,
        "engine": engine.name,
        "captured": graphs is not None,
    }
    for name, trainer in trainers(agent, config, store, cache, engine, graphs).items():
        agent.eval()
        agent.get_submodule(name).train()
        found[name] = timed(lambda step, t=trainer: t.step(0, 1, step), repeats, device)  # type: ignore[misc]
    agent.eval()
    start = imagination_start(cache, part.batch_num_samples, part.burn_in, 0)
    found["rollout"] = timed(
        lambda step: engine.imagine(start, part.imagine_horizon or 1, step), repeats, device
    )
    if device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


Inputs = Callable[[int], Tensors]
LossesOf = Callable[[Tensors], Iterable[Losses]]


def data_and_losses(
    agent: Agent, config: Config, store: EpisodeStore, cache: FrameCache, engine: ImaginationEngine
) -> dict[str, tuple[Inputs, LossesOf]]:
    """What each part draws from a seed, and minimises, as a run has it."""
    training, precision = config.training, config.common.precision
    sizes = {name: getattr(training, name).batch_num_samples for name in PARTS}
    length = config.common.sequence_length or 1

    def tokenizer_losses(inputs: Tensors) -> Iterator[Losses]:
        for piece in inputs["frames"].chunk(training.tokenizer.pieces):
            with autocast(precision, agent.device):
                losses = agent.tokenizer.losses(piece)
            yield losses

    return {
        "tokenizer": (
            lambda seed: {"frames": tokenizer_frames(store, sizes["tokenizer"], seed)},
            tokenizer_losses,
        ),
        "world_model": (
            lambda seed: world_model_inputs(cache, sizes["world_model"], length, seed),
            lambda inputs: [segment_losses(agent, inputs, precision)],
        ),
        "actor_critic": (
            lambda seed: imagined_inputs(agent, cache, engine, config, sizes["actor_critic"], seed),
            lambda inputs: [rollout_losses(agent, config, inputs)],
        ),
    }


def trainers(
    agent: Agent,
    config: Config,
    store: EpisodeStore,
    cache: FrameCache,
    engine: ImaginationEngine,
    graphs: Graphs | None,
) -> dict[str, PartTrainer]:
    """The trainers of the three parts as a run has them."""
    training, precision = config.training, config.common.precision
    rate, captured = training.learning_rate, is_captured(graphs, precision)
    optimizers = {
        "tokenizer": adam(agent.tokenizer.trained_parameters(), rate, captured),
        "world_model": adamw(agent.world_model, rate, 0.01, captured),
        "actor_critic": adam(list(agent.actor_critic.parameters()), rate, captured),
    }
    return {
        name: make_part_trainer(
            name,
            getattr(training, name),
            [p for group in optimizers[name].param_groups for p in group["params"]],
            optimizers[name],
            *steps,
            precision,
            training.tokenizer.pieces if name == "tokenizer" else 1,
            graphs,
        )
        for name, steps in data_and_losses(agent, config, store, cache, engine).items()
    }


GPU_SIDES = {
    "bf16": ("common.precision=bf16",),
    "float32": (),
    "bf16_eager": ("common.precision=bf16", "common.engine=oracle", "training.cuda_graphs=false"),
}
"""What is timed on a GPU beside each other: captured in two precisions, and with nothing captured."""


@case("training_steps", minutes=3)
def training_steps(quick: bool) -> dict[str, Any]:
    """Seconds of the tokenizer, world-model and actor-critic step and of a rollout (small on CPU, paper on GPU)."""
    if not torch.cuda.is_available():
        return measure("tiny" if quick else "small", 1 if quick else 10)
    preset, repeats = ("tiny", 2) if quick else ("paper", 10)
    found: dict[str, Any] = {}
    for name, overrides in GPU_SIDES.items():
        try:
            found[name] = measure(preset, repeats, *overrides)
        except RuntimeError as error:  # one that fails must not take the others with it
            found[name] = {"error": str(error)}
    return found

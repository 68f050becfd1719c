"""How long a run will take, before it starts: one step of each phase, timed on made-up data.

Where steps are captured as CUDA graphs it is the run's own graphs that are timed: they are captured for it instead of
at the first step of each part, which also tells at the start what cannot be captured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iris_fast.acting import Policy
from iris_fast.agent import PARTS, Agent
from iris_fast.config import Config
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore

from .graphed_step import GraphedPartTrainer
from .optimization import PartTrainer
from .part_losses import (
    imagined_inputs,
    imagined_losses,
    tokenizer_frames,
    tokenizer_losses,
    world_model_inputs,
    world_model_losses,
)
from .precision import autocast
from .progress import RunProgress, TimeLeft
from .schedule import epoch_phases

FULL_SIZE_SECONDS = 3.0  # a step that should take less than this is timed at full size
ATARI_EPISODE_STEPS = 1000  # a guess, where nothing has been played yet
CATCH_EPISODE_STEPS = 9


@dataclass(frozen=True)
class Running:
    """What a run will take its time with: its gradient steps by part, its rollouts, its acting.

    The run's own, since others would pack and capture everything twice.
    """

    parts: Mapping[str, PartTrainer]
    engine: ImaginationEngine
    policy: Policy


def estimate_seconds_per_unit(
    agent: Agent,
    config: Config,
    num_envs: int,
    running: Running,
    phases: Collection[str] = PARTS,
) -> dict[str, float]:
    """Seconds that a unit of each phase is expected to take. The agent and its random state stay as they are.

    `phases`: those that the run will have.
    """
    device = agent.device
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        priors = _acting_seconds(config, num_envs, running.policy)
        if config.training.should:
            priors |= _training_seconds(agent, config, running, phases)
    if on_gpu:
        torch.cuda.empty_cache()  # what this took besides; that of the run's own captures counts as its peak
    return priors


def scheduled_phases(config: Config, start_epoch: int) -> set[str]:
    """The phases that epochs from `start_epoch` on have."""
    return {
        name for epoch in range(start_epoch, config.common.epochs + 1) for name in epoch_phases(config, epoch)
    }


def estimated_run_time(config: Config, start_epoch: int, priors: dict[str, float]) -> TimeLeft:
    """The time from `start_epoch` to the end of the run."""
    schedule = lambda epoch: epoch_phases(config, epoch)  # noqa: E731
    return RunProgress(
        config.common.epochs, schedule=schedule, start_epoch=start_epoch, priors=priors, enabled=False
    ).time_left()


def _seconds(agent: Agent, function: Callable[[], object]) -> float:
    def finish() -> None:
        if agent.device.type == "cuda":
            torch.cuda.synchronize(agent.device)

    finish()
    began = time.perf_counter()
    function()
    finish()
    return time.perf_counter() - began


def _acting_seconds(config: Config, num_envs: int, policy: Policy) -> dict[str, float]:
    """Of collection by agent step, of evaluation by episode; an environment step is taken as 1 ms."""
    agent = policy.agent.eval()

    def per_vector_step(count: int) -> float:
        frames = np.zeros((count, *_frame_shape(config)), np.uint8)
        state = agent.actor_critic.initial_state(count)
        act = lambda: policy(frames, state)  # noqa: E731
        act()
        return min(_seconds(agent, act) for _ in range(3)) + 1e-3 * count

    test = config.collection.test
    test_envs = min(test.num_envs, test.config.num_episodes)
    length = CATCH_EPISODE_STEPS if config.game == "Catch" else ATARI_EPISODE_STEPS
    return {
        "collection": per_vector_step(num_envs) / num_envs,
        "evaluation": per_vector_step(test_envs) / test_envs * length,
    }


def _frame_shape(config: Config) -> tuple[int, int, int]:
    return (3, config.env.train.size, config.env.train.size)


def _training_seconds(
    agent: Agent, config: Config, running: Running, phases: Collection[str]
) -> dict[str, float]:
    store = _made_up_store(agent, config)
    cache = FrameCache(agent.coder, store, max_bytes=10**9)
    found = {}
    for name in (part for part in PARTS if part in phases):
        part = running.parts.get(name)
        if isinstance(part, GraphedPartTrainer):
            found[name] = _captured_seconds(agent, name, part, running.engine, config, cache)
        else:
            found[name] = _eager_seconds(agent, name, running.engine, config, cache)
    return found


def _captured_seconds(
    agent: Agent,
    name: str,
    trainer: GraphedPartTrainer,
    engine: ImaginationEngine,
    config: Config,
    cache: FrameCache,
) -> float:
    """Of a step that is captured first, the gathering of its data and its rollout included."""
    batch, length = trainer.config.batch_num_samples, config.common.sequence_length or 1
    inputs: dict[str, Callable[[int], Any]] = {
        "tokenizer": lambda seed: {"frames": tokenizer_frames(cache.store, batch, seed)},
        "world_model": lambda seed: world_model_inputs(cache, batch, length, seed),
        "actor_critic": lambda seed: imagined_inputs(agent, cache, engine, config, batch, seed),
    }
    agent.eval()
    agent.get_submodule(name).train()  # as it is captured for all steps to come
    seconds = trainer.rehearse(inputs[name], lambda step: min(_seconds(agent, step) for _ in range(3)))
    agent.eval()
    return seconds


def _eager_seconds(
    agent: Agent, name: str, engine: ImaginationEngine, config: Config, cache: FrameCache
) -> float:
    length, precision = config.common.sequence_length or 1, config.common.precision

    def of_tokenizer(batch: int) -> dict[str, torch.Tensor]:
        with autocast(precision, agent.device):
            return tokenizer_losses(agent, cache.store, batch, 0)

    functions: dict[str, Callable[[int], dict[str, torch.Tensor]]] = {
        "tokenizer": of_tokenizer,
        "world_model": lambda batch: world_model_losses(agent, cache, batch, length, 0, precision),
        "actor_critic": lambda batch: imagined_losses(agent, cache, engine, config, batch, 0),
    }

    def step(batch: int) -> None:
        agent.eval()
        torch.stack(list(functions[name](batch).values())).sum().backward()
        agent.zero_grad(set_to_none=True)

    part = getattr(config.training, name)
    pieces = config.training.tokenizer.pieces if name == "tokenizer" else 1
    return _scaled_seconds(agent, step, part.batch_num_samples // pieces) * pieces * part.grad_acc_steps


def _scaled_seconds(agent: Agent, step: Callable[[int], None], batch: int) -> float:
    """Seconds of a step at `batch`, from a smaller one in proportion when it would take long."""
    small = max(1, batch // 16)
    step(small)
    predicted = _seconds(agent, lambda: step(small)) * batch / small
    if predicted > FULL_SIZE_SECONDS * (10 if agent.device.type == "cuda" else 1):
        return predicted
    return _seconds(agent, lambda: step(batch))


def _made_up_store(agent: Agent, config: Config) -> EpisodeStore:
    """A few episodes of noise, where the run keeps its own."""
    rng = np.random.default_rng(0)
    length = 4 * (config.common.sequence_length or 1)
    device = torch.device("cpu") if config.datasets.train.device == "cpu" else agent.device
    store = EpisodeStore(2 * length, config.env.train.size, device, agent.device)
    for key in range(2):
        frames = rng.integers(0, 256, (length, *_frame_shape(config)), dtype=np.uint8)
        actions = rng.integers(0, agent.num_actions, length)
        store.extend(key, frames, actions, np.zeros(length, np.float32), np.zeros(length, bool), closed=True)
    return store

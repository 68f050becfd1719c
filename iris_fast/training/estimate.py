"""How long a run will take, before it starts: its own parts and policy, timed on made-up data.

Where steps are captured as CUDA graphs, this captures them instead of the first step of each part, which also tells
at the start what cannot be captured.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from iris_fast.agent import PARTS
from iris_fast.config import Config
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore

from .parts import make_parts
from .progress import RunProgress, TimeLeft
from .schedule import epoch_phases
from .trainer import Trainer

ENVIRONMENT_SECONDS = 1e-3  # a guess, of one step of one environment
EPISODE_STEPS = {"Catch": 9}
ATARI_EPISODE_STEPS = 1000  # a guess, where nothing has been played yet


def estimate_seconds_per_unit(trainer: Trainer) -> dict[str, float]:
    """Seconds that a unit of each phase is expected to take: an agent step, a gradient step, an episode.

    The agent, its optimizers and its random state stay as they are.
    """
    device, config = trainer.agent.device, trainer.config
    on_gpu = device.type == "cuda"
    phases = scheduled_phases(config, trainer.position.epoch)
    test_envs = min(config.collection.test.num_envs, config.collection.test.config.num_episodes)
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        found = {
            "collection": _acting_seconds(trainer, trainer.env.num_envs),
            "evaluation": _acting_seconds(trainer, test_envs)
            * EPISODE_STEPS.get(config.game, ATARI_EPISODE_STEPS),
        }
        found |= _training_seconds(trainer, [name for name in PARTS if name in phases])
    if on_gpu:
        torch.cuda.empty_cache()  # what this took besides; that of the run's own captures counts as its peak
    return found


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


def _acting_seconds(trainer: Trainer, num_envs: int) -> float:
    """Of one environment's step where `num_envs` are played side by side."""
    agent, policy = trainer.agent.eval(), trainer.collector.policy
    size = trainer.config.env.train.size
    frames = np.zeros((num_envs, 3, size, size), np.uint8)
    state = agent.actor_critic.initial_state(num_envs)
    policy(frames, state)
    return _seconds(lambda: policy(frames, state), agent.device) / num_envs + ENVIRONMENT_SECONDS


def _training_seconds(trainer: Trainer, names: list[str]) -> dict[str, float]:
    """Of a step of each part, the gathering of its data and its rollout included."""
    agent, config = trainer.agent, trainer.config
    cache = FrameCache(agent.coder, _made_up_store(trainer), max_bytes=10**9)
    parts, found = make_parts(agent, config, cache, trainer.engine), {}
    for name in names:
        agent.eval()
        parts[name].module.train()  # as it is captured for all steps to come
        found[name] = trainer.parts[name].rehearse(parts[name], lambda step: _seconds(step, agent.device))
    agent.eval()
    return found


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """The least of three times, but of one alone where that is long."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < 1:
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _made_up_store(trainer: Trainer) -> EpisodeStore:
    """Two episodes of noise, where the run keeps its own."""
    rng, size = np.random.default_rng(0), trainer.config.env.train.size
    length = 4 * (trainer.config.common.sequence_length or 1)
    store = EpisodeStore(2 * length, size, trainer.store.frames.device, trainer.agent.device)
    for key in range(2):
        frames = rng.integers(0, 256, (length, 3, size, size), dtype=np.uint8)
        actions = rng.integers(0, trainer.agent.num_actions, length)
        store.extend(key, frames, actions, np.zeros(length, np.float32), np.zeros(length, bool), closed=True)
    return store

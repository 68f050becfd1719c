"""Estimates the duration of a run before it starts, by timing its parts and policy on made-up data.

If steps are captured as CUDA graphs, they are captured here rather than at each part's first step, so a failing
capture shows at the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from iris_fast.agent import PARTS
from iris_fast.config import Config
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore

from .parts import make_parts
from .schedule import epoch_phases

if TYPE_CHECKING:
    from .trainer import Trainer

ENVIRONMENT_SECONDS = 1e-3  # a guess for one step of one environment
EPISODE_STEPS = {"Catch": 9}
ATARI_EPISODE_STEPS = 1000  # a guess while nothing has been played


def estimate_seconds_per_unit(trainer: Trainer) -> dict[str, float]:
    """Expected seconds for a unit of each phase: an agent step, a gradient step, an episode.

    The agent, its optimizers and its random state do not change.
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
        torch.cuda.empty_cache()  # memory used only here; memory of the run's captures counts towards its peak
    return found


def scheduled_phases(config: Config, start_epoch: int) -> set[str]:
    """The phases of the epochs from `start_epoch` on."""
    return {
        name for epoch in range(start_epoch, config.common.epochs + 1) for name in epoch_phases(config, epoch)
    }


def _acting_seconds(trainer: Trainer, num_envs: int) -> float:
    """Seconds of one environment's step when `num_envs` play side by side."""
    agent, policy = trainer.agent.eval(), trainer.collector.policy
    size = trainer.config.env.train.size
    frames = np.zeros((num_envs, 3, size, size), np.uint8)
    state = agent.actor_critic.initial_state(num_envs)
    policy(frames, state)
    return _seconds(lambda: policy(frames, state), agent.device) / num_envs + ENVIRONMENT_SECONDS


def _training_seconds(trainer: Trainer, names: list[str]) -> dict[str, float]:
    """Seconds of a step of each part, including the gathering of its data and its rollout."""
    agent, config = trainer.agent, trainer.config
    cache = FrameCache(agent.coder, _made_up_store(trainer), max_bytes=10**9)
    parts, found = make_parts(agent, config, cache, trainer.engine, group=trainer.group), {}
    for name in names:
        agent.eval()
        parts[name].module.train()  # as captured for all later steps
        found[name] = trainer.parts[name].rehearse(parts[name], lambda step: _seconds(step, agent.device))
    agent.eval()
    return found


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """The shorter of two times, since the first may allocate and compile; if the first is long, that one.

    On a CPU it is the processor time of this thread, which takes part in all work. Other processes, such as a build,
    would make a clock on the wall show several times as much; so a run beside others takes longer than this says.
    """
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    times: list[float] = []
    began = time.perf_counter()
    while not times or (len(times) < 2 and time.perf_counter() - began < 1):
        start = clock()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return min(times)


def _made_up_store(trainer: Trainer) -> EpisodeStore:
    """Two episodes of noise, on the device of the run's replay."""
    rng, size = np.random.default_rng(0), trainer.config.env.train.size
    length = 4 * (trainer.config.common.sequence_length or 1)
    store = EpisodeStore(2 * length, size, trainer.store.frames.device, trainer.agent.device)
    for key in range(2):
        frames = rng.integers(0, 256, (length, 3, size, size), dtype=np.uint8)
        actions = rng.integers(0, trainer.agent.num_actions, length)
        store.extend(key, frames, actions, np.zeros(length, np.float32), np.zeros(length, bool), closed=True)
    return store

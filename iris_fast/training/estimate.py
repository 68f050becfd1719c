"""How long a run will take, before it starts: one step of each phase, timed on made-up data."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import torch

from iris_fast.agent import PARTS, Agent
from iris_fast.config import Config
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.imagination.factory import engine_of, make_engine
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore

from .part_losses import imagined_losses, tokenizer_losses, world_model_losses
from .progress import RunProgress, TimeLeft
from .schedule import epoch_phases

FULL_SIZE_SECONDS = 3.0  # a step that should take less than this is timed at full size
ATARI_EPISODE_STEPS = 1000  # a guess, where nothing has been played yet
CATCH_EPISODE_STEPS = 9


def estimate_seconds_per_unit(agent: Agent, config: Config, num_envs: int) -> dict[str, float]:
    """Seconds that a unit of each phase is expected to take. The agent and its random state stay as they are."""
    with torch.random.fork_rng(devices=[agent.device] if agent.device.type == "cuda" else []):
        agent = copy.deepcopy(agent)
        # On a GPU nothing is captured for it, which would take longer than what it tells: so it overestimates there
        # until an epoch has been measured.
        on_gpu = agent.device.type == "cuda"
        engine = make_engine(agent, "oracle") if on_gpu else engine_of(agent, config.common)
        priors = _acting_seconds(agent, config, num_envs)
        if config.training.should:
            priors |= _training_seconds(agent, engine, config)
    if agent.device.type == "cuda":  # give back what the copy took, and do not count it as the run's peak
        device = agent.device
        del agent, engine
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return priors


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


def _acting_seconds(agent: Agent, config: Config, num_envs: int) -> dict[str, float]:
    """Of collection by agent step, of evaluation by episode; an environment step is taken as 1 ms."""
    agent.eval()

    def per_vector_step(count: int) -> float:
        frames = torch.zeros((count, *_frame_shape(config)), dtype=torch.uint8, device=agent.device)
        state = agent.actor_critic.initial_state(count)
        act = lambda: agent.policy(frames, state)  # noqa: E731
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


def _training_seconds(agent: Agent, engine: ImaginationEngine, config: Config) -> dict[str, float]:
    store = _made_up_store(agent, config)
    cache = FrameCache(agent.tokenizer, store, max_bytes=10**9)
    length = config.common.sequence_length or 1
    functions: dict[str, Callable[[int], dict[str, torch.Tensor]]] = {
        "tokenizer": lambda batch: tokenizer_losses(agent, store, batch, 0),
        "world_model": lambda batch: world_model_losses(agent, cache, batch, length, 0),
        "actor_critic": lambda batch: imagined_losses(agent, cache, engine, config, batch, 0),
    }
    found = {}
    for name in PARTS:
        part = getattr(config.training, name)

        def step(batch: int, name: str = name) -> None:
            agent.eval()
            torch.stack(list(functions[name](batch).values())).sum().backward()
            agent.zero_grad(set_to_none=True)

        pieces = config.training.tokenizer.pieces if name == "tokenizer" else 1
        seconds = _scaled_seconds(agent, step, part.batch_num_samples // pieces)
        found[name] = seconds * pieces * part.grad_acc_steps
    return found


def _scaled_seconds(agent: Agent, step: Callable[[int], None], batch: int) -> float:
    """Seconds of a step at `batch`, from a smaller one in proportion when it would take long."""
    small = max(1, batch // 16)
    step(small)
    predicted = _seconds(agent, lambda: step(small)) * batch / small
    if predicted > FULL_SIZE_SECONDS * (10 if agent.device.type == "cuda" else 1):
        return predicted
    return _seconds(agent, lambda: step(batch))


def _made_up_store(agent: Agent, config: Config) -> EpisodeStore:
    """A few episodes of noise."""
    rng = np.random.default_rng(0)
    length = 4 * (config.common.sequence_length or 1)
    store = EpisodeStore(2 * length, config.env.train.size, torch.device("cpu"), agent.device)
    for key in range(2):
        frames = rng.integers(0, 256, (length, *_frame_shape(config)), dtype=np.uint8)
        actions = rng.integers(0, agent.num_actions, length)
        store.extend(key, frames, actions, np.zeros(length, np.float32), np.zeros(length, bool), closed=True)
    return store

"""Frames of a game without dependencies, for measurements that need more than noise."""

from __future__ import annotations

import numpy as np
import torch

from iris_fast.envs import EnvConfig, make_vector_env
from iris_fast.replay.store import EpisodeStore

CATCH_ACTIONS = 3


def played_store(frames: int, size: int, seed: int, device: torch.device) -> EpisodeStore:
    """At least `frames` frames of Catch played at random, in whole episodes, on the device as a run's replay is."""
    rng = np.random.default_rng(seed)
    config = EnvConfig(max_episode_steps=1000, noop_max=1, done_on_life_loss=False, size=size)
    env = make_vector_env("Catch", config, num_envs=1, seed=seed)
    store = EpisodeStore(frames + 100, size, device)
    episode = 0
    while store.num_frames < frames:
        steps: list[tuple[np.ndarray, int, float, bool]] = []
        observations, _ = env.reset(seed=seed + episode)
        ended = False
        while not ended:
            actions = rng.integers(0, CATCH_ACTIONS, 1)
            seen = observations[0].copy()
            observations, rewards, terminated, truncated, _ = env.step(actions)
            ended = bool(terminated[0] or truncated[0])
            steps.append((seen, int(actions[0]), float(rewards[0]), ended))
        pictures, acted, rewarded, ends = zip(*steps, strict=True)
        store.extend(
            episode,
            np.stack(pictures),
            np.array(acted),
            np.array(rewarded, np.float32),
            np.array(ends),
            closed=True,
        )
        episode += 1
    env.close()
    return store

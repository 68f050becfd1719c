"""Plays whole episodes for evaluation: each environment plays its share, so that short episodes are not favoured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from iris_fast.acting import ActingConfig, Actor, Policy
from iris_fast.agent import Agent
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.envs.playing import PlayedSteps, PlayLoop
from iris_fast.kernels.common.arguments import with_checked_types


@dataclass
class PlayedEpisode:
    """A finished episode; `steps` has the frames that were kept."""

    steps: PlayedSteps = field(default_factory=PlayedSteps)
    episode_return: float = 0.0
    length: int = 0


class StopPlaying(Exception):
    """Playing was stopped by `on_step`, with episodes unfinished."""


@torch.no_grad()
@with_checked_types
def play_episodes(
    agent: Agent,
    env: FrameVectorEnv,
    config: ActingConfig,
    num_episodes: int,
    seed: int,
    *,
    keep_frames: int = 0,
    on_episode: Callable[[PlayedEpisode], None] | None = None,
    on_step: Callable[[int], bool] = lambda steps: False,
    policy: Policy | None = None,
) -> list[PlayedEpisode]:
    """Plays `num_episodes` whole episodes, in all environments at once.

    At most `keep_frames` frames are kept over all episodes, plus the final observation of each complete one.
    After each step `on_step` gets the number of environments that played; if it returns True, StopPlaying is raised.
    `seed` addresses the draws.
    """
    loop = PlayLoop(env, Actor(policy or Policy(agent), config, seed))
    shares = [
        num_episodes // env.num_envs + (row < num_episodes % env.num_envs) for row in range(env.num_envs)
    ]
    finished: list[PlayedEpisode] = []
    playing = [PlayedEpisode() for _ in shares]
    loop.begin(seed)
    loop.state = agent.actor_critic.initial_state(env.num_envs)
    kept = 0
    while any(shares):
        step = loop.step()
        played = sum(share > 0 for share in shares)
        for row, episode in enumerate(playing):
            if not shares[row]:
                continue
            episode.episode_return += float(step.rewards[row])
            episode.length += 1
            if kept < keep_frames:
                kept += 1
                episode.steps.add(step, row)
            if step.ends[row]:
                if len(episode.steps.frames) == episode.length:
                    episode.steps.last = step.following[row].copy()
                shares[row] -= 1
                finished.append(episode)
                if on_episode is not None:
                    on_episode(episode)
                playing[row] = PlayedEpisode()
        if step.ends.any() and any(shares):
            loop.restart(step.ends)
        if on_step(played):
            raise StopPlaying
    return finished


def return_statistics(episodes: list[PlayedEpisode]) -> dict[str, float]:
    """Mean, standard deviation, extremes of the returns, and the mean length."""
    returns = np.array([episode.episode_return for episode in episodes])
    return {
        "return": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "return_median": float(np.median(returns)),
        "length": float(np.mean([episode.length for episode in episodes])),
        "episodes": float(len(episodes)),
    }

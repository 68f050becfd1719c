"""Evaluation: every environment plays its share of whole episodes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from iris_fast.acting import ActingConfig
from iris_fast.agent import Agent
from iris_fast.training.tester import PlayedEpisode, StopPlaying, play_episodes, return_statistics
from tests.support.agents import micro_agent
from tests.training.scripted import ScriptedEnv, WatchedAgent, address

ACTING = ActingConfig(epsilon=0.0, should_sample=True, temperature=0.5, burn_in=0)
SHORT_AND_LONG = [[2], [13], [3, 1]]


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


def expected_return(env: ScriptedEnv, row: int, number: int) -> float:
    lasting = env.lengths[row][number % len(env.lengths[row])]
    return sum(env.reward(row, number, step, step == lasting - 1) for step in range(lasting))


@pytest.mark.parametrize("num_episodes", [1, 2, 3, 7, 9])
def test_every_environment_plays_its_share(agent: Agent, num_episodes: int) -> None:
    env = ScriptedEnv(SHORT_AND_LONG)
    episodes = play_episodes(agent, env, ACTING, num_episodes, seed=0, keep_frames=10_000)
    played = Counter(address(episode.steps.frames[0])[0] for episode in episodes)
    shares = {row: num_episodes // 3 + (row < num_episodes % 3) for row in range(3)}
    assert played == Counter({row: share for row, share in shares.items() if share})
    for episode in episodes:
        row, number, _ = address(episode.steps.frames[0])
        lasting = SHORT_AND_LONG[row][number % len(SHORT_AND_LONG[row])]
        assert [address(frame) for frame in episode.steps.frames] == [
            (row, number, s) for s in range(lasting)
        ]
        assert episode.length == lasting == len(episode.steps.actions)
        assert episode.steps.ends == [False] * (lasting - 1) + [True]
        assert episode.episode_return == pytest.approx(expected_return(env, row, number))
        assert episode.episode_return == pytest.approx(sum(episode.steps.rewards))
    # No episode is left out: those of a row are its first ones.
    for row, share in shares.items():
        numbers = [address(e.steps.frames[0])[1] for e in episodes if address(e.steps.frames[0])[0] == row]
        assert numbers == list(range(share))


def test_frames_are_kept_within_their_limit(agent: Agent) -> None:
    limited = play_episodes(agent, ScriptedEnv(SHORT_AND_LONG), ACTING, 6, seed=0, keep_frames=9)
    assert sum(len(episode.steps.frames) for episode in limited) == 9
    nothing = play_episodes(agent, ScriptedEnv(SHORT_AND_LONG), ACTING, 6, seed=0)
    assert not any(episode.steps.frames for episode in nothing)
    for first, second in zip(limited, nothing, strict=True):
        assert (first.episode_return, first.length) == (second.episode_return, second.length)


def test_the_state_starts_anew_with_each_episode(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = WatchedAgent(agent)
    monkeypatch.setattr(agent, "policy", watch)
    play_episodes(agent, ScriptedEnv(SHORT_AND_LONG), ACTING, 9, seed=0)
    assert len(watch.states) == 3 * 13
    watch.assert_fresh_exactly_at_starts()


def test_the_seed_says_everything(agent: Agent) -> None:
    taken = []
    for seed in (5, 5, 6):
        env = ScriptedEnv(SHORT_AND_LONG)
        play_episodes(agent, env, ACTING, 6, seed=seed)
        assert env.seeds == [seed]
        taken.append(np.stack(env.taken))
    np.testing.assert_array_equal(taken[0], taken[1])
    assert (taken[0] != taken[2]).any()


def test_episodes_are_told_as_they_end(agent: Agent) -> None:
    told: list[PlayedEpisode] = []
    episodes = play_episodes(agent, ScriptedEnv([[4], [2]]), ACTING, 4, seed=0, on_episode=told.append)
    assert told == episodes
    assert [episode.length for episode in told] == [2, 4, 2, 4]


def test_stopping(agent: Agent) -> None:
    env, told = ScriptedEnv([[4], [2]]), list[PlayedEpisode]()
    with pytest.raises(StopPlaying):
        play_episodes(
            agent, env, ACTING, 100, seed=0, on_episode=told.append, on_step=lambda steps: len(env.taken) == 5
        )
    assert len(env.taken) == 5
    assert len(told) == 3


def test_statistics() -> None:
    episodes = [
        PlayedEpisode(episode_return=value, length=length) for value, length in ((1, 2), (2, 4), (6, 9))
    ]
    found = return_statistics(episodes)
    assert found == pytest.approx(
        {
            "return": 3.0,
            "return_std": np.std([1, 2, 6]),
            "return_min": 1.0,
            "return_max": 6.0,
            "return_median": 2.0,
            "length": 5.0,
            "episodes": 3.0,
        }
    )

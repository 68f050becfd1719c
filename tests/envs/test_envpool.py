"""envpool agrees with ale-py bit for bit: frames, rewards, ends, lives, over episodes and games."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iris_fast.envs import EnvConfig, make_vector_env
from iris_fast.errors import UserError
from tests.envs.conftest import TEST, TRAIN, assert_same, needs_ale, needs_envpool, play, random_actions

pytestmark = [needs_ale, needs_envpool]


@pytest.mark.parametrize(
    ("game", "config", "num_envs"),
    [
        ("Pong", TEST, 1),
        ("Breakout", TRAIN, 3),
        ("Breakout", replace(TEST, max_episode_steps=203), 2),
        ("Assault", replace(TRAIN, max_episode_steps=400), 1),
        ("MsPacman", replace(TRAIN, frame_skip=3, size=48, clip_reward=True), 1),
    ],
)
def test_the_same_seed_gives_the_same_episodes(game: str, config: EnvConfig, num_envs: int) -> None:
    said = []
    for backend in ("ale", "envpool"):
        env = make_vector_env(game, config, num_envs=num_envs, seed=3, backend=backend)
        actions = random_actions(env, 100)
        observations, infos = env.reset()
        said.append([observations, infos["lives"], *play(env, actions)])
        env.close()
    assert_same(*said)


def test_action_meanings_agree() -> None:
    ale, envpool = (
        make_vector_env("Qbert", TRAIN, num_envs=1, seed=0, backend=backend) for backend in ("ale", "envpool")
    )
    assert ale.action_meanings == envpool.action_meanings
    assert envpool.action_meanings == ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN")


def test_a_state_cannot_be_told_or_taken_up() -> None:
    env = make_vector_env("Pong", TRAIN, num_envs=1, seed=0, backend="envpool")
    env.reset()
    assert env.get_state() is None
    ale = make_vector_env("Pong", TRAIN, num_envs=1, seed=0, backend="ale")
    ale.reset()
    state = ale.get_state()
    assert state is not None
    with pytest.raises(UserError, match="backend='ale' and this one 'envpool'"):
        env.set_state(state)


def test_reset_masks_reach_single_rows() -> None:
    env = make_vector_env("Pong", TEST, num_envs=4, seed=0, backend="envpool")
    first, _ = env.reset()
    for actions in random_actions(env, 20):
        last, *_ = env.step(actions)
    observations, _ = env.reset(options={"reset_mask": np.array([False, False, True, False])})
    np.testing.assert_array_equal(observations[2], first[2])
    np.testing.assert_array_equal(observations[[0, 1, 3]], last[[0, 1, 3]])
    assert (first[2] != last[2]).any()

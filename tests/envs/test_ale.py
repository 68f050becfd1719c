"""ale-py: bit-exact frames, real lives and limits, snapshots across games."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from iris_fast.envs import EnvConfig, FrameVectorEnv, make_vector_env
from tests.envs.conftest import TEST, TRAIN, assert_same, needs_ale, play, random_actions

pytestmark = needs_ale


def ale_env(game: str, config: EnvConfig = TRAIN, *, seed: int = 0) -> FrameVectorEnv:
    return make_vector_env(game, config, num_envs=1, seed=seed, backend="ale")


def raw_emulator(game: str) -> Any:
    """ale-py by itself, without gymnasium or this project."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(str(ale_py.roms.get_rom_path(game)))
    ale.reset_game()
    return ale


def small(screen: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(screen).resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


@pytest.mark.parametrize(("game", "rom"), [("Pong", "pong"), ("MsPacman", "ms_pacman")])
def test_frames_and_rewards_from_raw_frames_by_hand(game: str, rom: str) -> None:
    env = ale_env(game, TEST)
    ale = raw_emulator(rom)
    observations, _ = env.reset()
    ale.act(0)
    np.testing.assert_array_equal(observations[0], small(ale.getScreenRGB()))
    legal = ale.getMinimalActionSet()
    for actions in random_actions(env, 120):
        observations, rewards, terminations, _, infos = env.step(actions)
        reward = 0
        last_two: list[np.ndarray] = []
        for _ in range(4):
            reward += ale.act(legal[actions[0]])
            last_two = [*last_two[-1:], small(ale.getScreenRGB())]
        np.testing.assert_array_equal(observations[0], np.maximum(*last_two))
        assert rewards[0] == reward and infos["lives"][0] == ale.lives()
        assert terminations[0] == ale.game_over()


def test_the_ball_of_pong_is_there() -> None:
    env = ale_env("Pong", TEST)
    env.reset()
    moving = [env.step(np.array([0]))[0][0].astype(int) for _ in range(60)]
    field = np.stack(moving)[:, :, 12:58, 12:52]  # between the paddles
    changes = (np.abs(np.diff(field, axis=0)).max(axis=(1, 2, 3)) > 60).sum()
    assert changes > 10


def test_breakout_loses_a_life_and_goes_on_in_the_same_game() -> None:
    env = ale_env("Breakout", replace(TRAIN, noop_max=1))
    env.reset()
    lives, bricks = [], []
    for actions in random_actions(env, 1200):
        observations, _, terminations, _, infos = env.step(actions)
        if terminations[0]:
            lives.append(int(infos["lives"][0]))
            bricks.append(observations[0, :, 14:26])
            assert infos["game_over"][0] == (lives[-1] == 0)
            after, infos = env.reset()
            if lives[-1] > 0:
                np.testing.assert_array_equal(after[0, :, 14:26], bricks[-1])
                assert infos["lives"][0] == lives[-1]
            else:
                assert infos["lives"][0] == 5
        if len(lives) == 6:
            break
    assert lives == [4, 3, 2, 1, 0, 4]


def test_breakout_plays_all_its_lives_when_testing() -> None:
    env = ale_env("Breakout", TEST)
    env.reset()
    lives = set()
    for actions in random_actions(env, 2000):
        _, _, terminations, _, infos = env.step(actions)
        lives.add(int(infos["lives"][0]))
        if terminations[0]:
            break
    assert terminations[0] and infos["game_over"][0] and lives == {0, 1, 2, 3, 4, 5}


def test_the_limit_of_raw_frames_truncates_after_a_quarter_as_many_steps() -> None:
    env = ale_env("Pong", replace(TEST, max_episode_steps=401))
    env.reset()
    ends = [bool(env.step(actions)[3][0]) for actions in random_actions(env, 100)]
    assert ends == [False] * 99 + [True]


@pytest.mark.parametrize("game", ["Qbert", "Assault", "Seaquest", "YarsRevenge"])
def test_a_snapshot_goes_on_through_later_games(game: str) -> None:
    """Qbert ends its reset inside a frame; resets of Assault depend on the games before."""
    config = replace(TRAIN, max_episode_steps=300)
    env = ale_env(game, config)
    env.reset()
    before, after = np.split(random_actions(env, 260), [80])
    play(env, before)
    state = env.get_state()
    assert state is not None
    expected = play(env, after)
    other = ale_env(game, config, seed=5)
    other.reset()
    other.set_state(state)
    assert_same(expected, play(other, after))


def test_a_game_of_another_height_is_seen_whole() -> None:
    env = ale_env("Pooyan", TEST)
    observations, _ = env.reset()
    ale = raw_emulator("pooyan")
    ale.act(0)
    assert ale.getScreenDims() == (220, 160)
    np.testing.assert_array_equal(observations[0], small(ale.getScreenRGB()))


def test_a_game_without_a_noop_among_its_actions_starts_with_noops_all_the_same() -> None:
    env = ale_env("Backgammon", TEST)
    assert "NOOP" not in env.action_meanings
    observations, _ = env.reset()
    ale = raw_emulator("backgammon")
    ale.act(0)
    np.testing.assert_array_equal(observations[0], small(ale.getScreenRGB()))

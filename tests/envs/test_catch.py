from __future__ import annotations

import numpy as np
import pytest

from iris_fast.envs.catch import ACTION_MEANINGS, COLUMNS, ROWS, CatchVectorEnv, draw_boards

NOOP, LEFT, RIGHT = (ACTION_MEANINGS.index(name) for name in ("NOOP", "LEFT", "RIGHT"))
BALL = np.array((255, 216, 64))
PADDLE = np.array((64, 160, 255))


def column_of(observation: np.ndarray, colour: np.ndarray) -> int:
    """The column in which a colour is seen in a `(3, 64, 64)` frame."""
    _, columns = np.nonzero((observation == colour[:, None, None]).all(axis=0))
    return int(columns.mean() * COLUMNS / 64)


def play_episodes(env: CatchVectorEnv, policy: str, seed: int = 0) -> np.ndarray:
    """Returns `(num_envs,)` of one episode each, acting on what is seen alone."""
    rng = np.random.default_rng(seed)
    observations, _ = env.reset()
    returns = np.zeros(env.num_envs)
    for step in range(1, ROWS):
        if policy == "random":
            actions = rng.integers(3, size=env.num_envs)
        else:
            aims = [column_of(frame, BALL) - column_of(frame, PADDLE) for frame in observations]
            actions = np.array([RIGHT if aim > 0 else LEFT if aim < 0 else NOOP for aim in aims])
        observations, rewards, terminations, truncations, infos = env.step(actions)
        returns += rewards
        assert (terminations == (step == ROWS - 1)).all()
        assert (infos["game_over"] == terminations).all() and not truncations.any()
        assert (rewards == 0).all() or step == ROWS - 1
    return returns


def test_random_play_loses_0_6() -> None:
    returns = play_episodes(CatchVectorEnv(num_envs=20_000, seed=0, size=5 * 2), "random")
    assert set(returns) == {-1.0, 1.0}
    assert returns.mean() == pytest.approx(-0.6, abs=0.03)  # four standard errors


def test_perfect_play_on_frames_alone_always_catches() -> None:
    assert (play_episodes(CatchVectorEnv(num_envs=64, seed=1), "perfect") == 1.0).all()


def test_paddle_moves_by_its_actions_and_stops_at_the_walls() -> None:
    env = CatchVectorEnv(num_envs=3, seed=0)
    observations, _ = env.reset()
    seen = [[column_of(frame, PADDLE) for frame in observations]]
    for _ in range(3):
        observations, *_ = env.step(np.array([NOOP, LEFT, RIGHT]))
        seen.append([column_of(frame, PADDLE) for frame in observations])
    assert seen == [[2, 2, 2], [2, 1, 3], [2, 0, 4], [2, 0, 4]]


def test_ball_starts_in_every_column_equally_often() -> None:
    env = CatchVectorEnv(num_envs=5000, seed=3, size=10)
    observations, _ = env.reset()
    tops = (observations[:, :, 0, :] == BALL[:, None]).all(axis=1)  # (num_envs, size)
    counts = tops[:, ::2].sum(axis=0)
    assert counts.sum() == 5000
    assert ((counts - 1000) ** 2 / 1000).sum() < 18.5  # chi-squared of 4 degrees, p = 0.001


def test_every_board_shows_one_ball_and_one_paddle() -> None:
    boards = draw_boards(64)
    assert boards.shape == (ROWS, COLUMNS, COLUMNS, 3, 64, 64)
    ball = (boards == BALL[:, None, None]).all(axis=3).sum(axis=(3, 4))
    assert ball.min() >= 6 * 12 and ball.max() <= 7 * 13
    paddle = (boards == PADDLE[:, None, None]).all(axis=3).sum(axis=(3, 4))
    assert paddle[: ROWS - 1].min() >= 6 * 12
    caught = np.arange(COLUMNS)
    assert (paddle[ROWS - 1][caught, caught] == 0).all()  # the ball lies over the paddle
    assert len(np.unique(boards.reshape(-1, 3 * 64 * 64), axis=0)) == ROWS * COLUMNS * COLUMNS

"""The rules that every backend follows."""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from iris_fast.envs import make_vector_env
from iris_fast.envs.catch import CatchVectorEnv
from iris_fast.errors import UserError
from tests.envs.conftest import TRAIN, MakeEnv, assert_same, needs_ale, play, random_actions


def test_spaces_and_shapes(make_env: MakeEnv) -> None:
    env = make_env(num_envs=3)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert env.single_observation_space == gymnasium.spaces.Box(0, 255, (3, 64, 64), np.uint8)
    assert env.single_action_space == gymnasium.spaces.Discrete(len(env.action_meanings))
    assert env.action_meanings[0] == "NOOP" and {"LEFT", "RIGHT"} <= set(env.action_meanings)
    observations, infos = env.reset(seed=1)
    assert observations in env.observation_space
    env.action_space.seed(0)
    observations, rewards, terminations, truncations, infos = env.step(env.action_space.sample())
    assert observations in env.observation_space
    assert rewards.dtype == np.float32 and terminations.dtype == truncations.dtype == bool
    assert infos["lives"].dtype == np.int64 and infos["game_over"].dtype == bool
    for per_row in (rewards, terminations, truncations, infos["lives"], infos["game_over"]):
        assert per_row.shape == (3,)
    env.close()


def test_what_is_returned_is_the_callers_own(make_env: MakeEnv) -> None:
    env = make_env()
    first, infos = env.reset()
    kept = first.copy()
    infos["lives"][:] = 99
    observations, _, _, _, later = env.step(np.array([1, 1]))
    np.testing.assert_array_equal(first, kept)
    observations[:] = 0
    assert env.reset(options={"reset_mask": np.zeros(2, bool)})[0].any()
    assert (later["lives"] != 99).all()


def test_a_seed_determines_everything(make_env: MakeEnv) -> None:
    env = make_env(seed=7)
    actions = random_actions(env, 40)
    said = [env.reset()[0], *play(env, actions)]
    other = make_env(seed=7)
    assert_same(said, [other.reset()[0], *play(other, actions)])
    assert_same(said, [other.reset(seed=7)[0], *play(other, actions)])
    assert_same(said, [env.reset(seed=7)[0], *play(env, actions)])
    another_seed = [env.reset(seed=8)[0], *play(env, actions)]
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(said, another_seed, strict=False))


def test_rows_differ_among_themselves(make_env: MakeEnv) -> None:
    observations, _ = make_env(num_envs=4).reset()
    assert len(np.unique(observations.reshape(4, -1), axis=0)) > 1


def test_reset_mask_leaves_the_other_rows_alone(make_env: MakeEnv) -> None:
    env, undisturbed = make_env(num_envs=3), make_env(num_envs=3)
    env.reset()
    undisturbed.reset()
    actions = random_actions(env, 8)
    changed = False
    for step, step_actions in enumerate(actions):
        said, expected = env.step(step_actions), undisturbed.step(step_actions)
        for a, b in zip(said[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]], err_msg=f"step {step}")
        if step < 7:
            observations, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
            np.testing.assert_array_equal(observations[[0, 2]], said[0][[0, 2]])
            changed = changed or bool((observations[1] != said[0][1]).any())
    assert changed


def test_an_ended_row_must_be_reset(make_env: MakeEnv) -> None:
    env = make_env(num_envs=1)
    with pytest.raises(ValueError, match=r"environment \[0\] has ended or not begun"):
        env.step(np.array([0]))
    env.reset()
    ended = np.zeros(1, bool)
    for actions in random_actions(env, 400):
        _, _, terminations, truncations, _ = env.step(actions)
        ended = terminations | truncations
        if ended.any():
            break
    assert ended.all()
    with pytest.raises(ValueError, match=r"environment \[0\] has ended"):
        env.step(np.array([0]))
    env.reset(options={"reset_mask": ended})
    env.step(np.array([0]))


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        (np.array([0, 9]), "out of range"),
        (np.array([-1, 0]), "out of range"),
        (np.array([0]), "integers of shape"),
        (np.array([0.0, 1.0]), "integers of shape"),
    ],
)
def test_bad_actions(make_env: MakeEnv, actions: np.ndarray, sentence: str) -> None:
    env = make_env()
    env.reset()
    with pytest.raises(ValueError, match=sentence):
        env.step(actions)


@pytest.mark.parametrize(
    ("seed", "options", "sentence"),
    [
        (None, {"mask": np.ones(2, bool)}, "unknown reset options"),
        (None, {"reset_mask": np.ones(3, bool)}, "must be bool of shape"),
        (None, {"reset_mask": np.ones(2, int)}, "must be bool of shape"),
        (3, {"reset_mask": np.ones(2, bool)}, "without reset_mask"),
        (None, {"reset_mask": np.array([True, False])}, "first reset must cover every row"),
    ],
)
def test_bad_resets(seed: int | None, options: dict[str, Any], sentence: str) -> None:
    env = CatchVectorEnv(num_envs=2, seed=0)
    with pytest.raises(ValueError, match=sentence):
        env.reset(seed=seed, options=options)


def through_a_file(state: Any) -> Any:
    """What a checkpoint does to a snapshot."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_snapshot_goes_on_bit_for_bit(make_env: MakeEnv) -> None:
    env = make_env(seed=7)
    assert env.backend in ("catch", "ale", "envpool")
    env.reset()
    before, after = np.split(random_actions(env, 260), [100])
    play(env, before)
    state = env.get_state()
    if env.backend == "envpool":
        assert state is None
        return
    state = through_a_file(state)
    expected = play(env, after)
    other = make_env(seed=8)
    other.set_state(state)
    assert_same(expected, play(other, after))
    assert sum(ended.sum() for ended in expected if ended.dtype == bool) >= 3, "no episode ended: too short"


def test_a_snapshot_taken_at_an_end_still_asks_for_the_reset(make_env: MakeEnv) -> None:
    env = make_env(num_envs=1)
    env.reset()
    for actions in random_actions(env, 400):
        _, _, terminations, _, _ = env.step(actions)
        if terminations.any():
            break
    state = env.get_state()
    if state is None:
        return
    other = make_env(num_envs=1, seed=1)
    other.set_state(through_a_file(state))
    with pytest.raises(ValueError, match="has ended"):
        other.step(np.array([0]))
    for a, b in zip(env.reset(), other.reset(), strict=True):
        np.testing.assert_equal(a, b)


def test_snapshots_of_something_else_are_refused() -> None:
    state = CatchVectorEnv(num_envs=2, seed=0).get_state()
    assert state is not None
    with pytest.raises(UserError, match="num_envs=2 and this one 3"):
        CatchVectorEnv(num_envs=3, seed=0).set_state(state)
    with pytest.raises(UserError, match="size=64 and this one 32"):
        CatchVectorEnv(num_envs=2, seed=0, size=32).set_state(state)
    with pytest.raises(UserError, match=r"use env\.backend=ale$"):
        CatchVectorEnv(num_envs=2, seed=0).set_state(state | {"backend": "ale"})


@needs_ale
def test_a_snapshot_of_another_backend_is_refused() -> None:
    state = CatchVectorEnv(num_envs=1, seed=0).get_state()
    assert state is not None
    with pytest.raises(UserError, match="backend='catch' and this one 'ale'"):
        make_vector_env("Pong", TRAIN, num_envs=1, seed=0, backend="ale").set_state(state)

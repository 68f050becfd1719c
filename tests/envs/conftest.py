"""Shared by the environment tests: settings, installed backends, and a scripted emulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from iris_fast.envs import EnvConfig, FrameVectorEnv, make_vector_env
from iris_fast.envs.atari import NOOP, AtariVectorEnv, RawFrames
from iris_fast.envs.factory import is_installed

TRAIN = EnvConfig()
TEST = EnvConfig(max_episode_steps=108_000, noop_max=1, done_on_life_loss=False)

needs_ale = pytest.mark.skipif(not is_installed("ale_py"), reason="ale-py is not installed")
needs_envpool = pytest.mark.skipif(not is_installed("envpool"), reason="envpool is not installed")

MakeEnv = Callable[..., FrameVectorEnv]


@pytest.fixture(
    params=[
        pytest.param(("Catch", "catch"), id="catch"),
        pytest.param(("Qbert", "ale"), id="ale", marks=needs_ale),
        pytest.param(("Qbert", "envpool"), id="envpool", marks=needs_envpool),
    ]
)
def make_env(request: pytest.FixtureRequest) -> MakeEnv:
    """Makes an environment of one of the backends; Qbert loses a life in about 50 steps."""
    game, backend = request.param

    def make(num_envs: int = 2, seed: int = 7, config: EnvConfig = TRAIN) -> FrameVectorEnv:
        return make_vector_env(game, config, num_envs=num_envs, seed=seed, backend=backend)

    return make


def random_actions(env: FrameVectorEnv, steps: int, seed: int = 0) -> np.ndarray:
    """Actions `(steps, num_envs)`."""
    return np.random.default_rng(seed).integers(len(env.action_meanings), size=(steps, env.num_envs))


def play(env: FrameVectorEnv, actions: np.ndarray) -> list[np.ndarray]:
    """Everything an environment says while playing `(steps, num_envs)` actions, ended rows being reset."""
    said: list[np.ndarray] = []
    for step_actions in actions:
        observations, rewards, terminations, truncations, infos = env.step(step_actions)
        said += [observations, rewards, terminations, truncations, infos["lives"], infos["game_over"]]
        ended = terminations | truncations
        if ended.any():
            observations, infos = env.reset(options={"reset_mask": ended})
            said += [observations, infos["lives"], infos["game_over"]]
    return said


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert len(first) == len(second)
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=f"item {index}")


class ScriptedEmulators:
    """Emulators whose frame number `t` of a game is a plain screen of brightness `t`.

    Args:
        lives_at: lives by frame number (the last entry at or before a frame holds).
        ends_at: the frame number at which a game is over.
    """

    backend = "ale"
    game = "Scripted"
    action_meanings: tuple[str, ...] = ("NOOP", "UP")

    def __init__(self, num_envs: int = 1, lives_at: dict[int, int] | None = None, ends_at: int = 10**9):
        self.num_envs = num_envs
        self.lives_at = lives_at or {0: 3}
        self.ends_at = ends_at
        self.frame = [0] * num_envs
        self.resets = [0] * num_envs
        self.log: list[tuple[int, int]] = []  # (row, action)

    def reload(self, seed: int) -> None:
        self.frame = [0] * self.num_envs

    def reset(self, rows: list[int]) -> RawFrames:
        for row in rows:
            self.frame[row] = 0
            self.resets[row] += 1
        return self.step(rows, [NOOP] * len(rows))

    def step(self, rows: list[int], actions: list[int]) -> RawFrames:
        for row, action in zip(rows, actions, strict=True):
            self.frame[row] += 1
            self.log.append((row, action))
        frames = [self.frame[row] for row in rows]
        return RawFrames(
            screens=[np.full((3, 21, 16), frame % 256, np.uint8) for frame in frames],
            rewards=[
                0.0 if action == NOOP else 0.5 * frame for frame, action in zip(frames, actions, strict=True)
            ],
            game_over=[frame >= self.ends_at for frame in frames],
            lives=[self.lives_at[max(at for at in self.lives_at if at <= frame)] for frame in frames],
        )

    def save(self) -> None:
        return None

    def restore(self, states: list[bytes]) -> None:
        raise AssertionError("not called: save gave None")

    def close(self) -> None:
        self.log.append((-1, -1))


def scripted_env(config: EnvConfig, **script: Any) -> tuple[AtariVectorEnv, ScriptedEmulators]:
    emulators = ScriptedEmulators(**script)
    return AtariVectorEnv(emulators, config, seed=0), emulators

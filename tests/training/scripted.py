"""An environment whose frames encode their row, episode and step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from iris_fast.agent import Agent
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.models.actor_critic import ActorCriticOutput, LSTMState

ACTIONS = ("NOOP", "LEFT", "RIGHT")


class ScriptedEnv(FrameVectorEnv):
    """Row `i`'s episode `n` lasts `lengths[i][n % len(lengths[i])]` steps; the last reward is 10 and a bit.

    Pixels (0, 0, 0), (1, 0, 0) and (2, 0, 0) of a frame are the row, the episode and the step within it. Odd
    episodes are truncated, even ones terminate. Its state cannot be saved.
    """

    backend = "scripted"

    def __init__(self, lengths: list[list[int]]):
        super().__init__("Scripted", ACTIONS, num_envs=len(lengths), size=64, steps_per_second=15)
        self.lengths = lengths
        self.episode = np.full(len(lengths), -1)
        self.at = np.zeros(len(lengths), np.int64)
        self.taken: list[np.ndarray] = []
        self.seeds: list[int] = []

    @staticmethod
    def reward(row: int, episode: int, step: int, ended: bool) -> float:
        return 10 * ended + row + episode / 8 + step / 64

    def _reseed(self, seed: int) -> None:
        self.seeds.append(seed)

    def _reset_rows(self, rows: list[int]) -> None:
        self.episode[rows] += 1
        self.at[rows] = 0
        self._draw()

    def _step_rows(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.taken.append(actions.copy())
        lasting = [lengths[n % len(lengths)] for lengths, n in zip(self.lengths, self.episode, strict=True)]
        ended = self.at + 1 == lasting
        rewards = [
            self.reward(row, int(self.episode[row]), int(self.at[row]), bool(ended[row]))
            for row in range(self.num_envs)
        ]
        self.at += 1
        self._draw()
        truncated = ended & (self.episode % 2 == 1)
        return np.array(rewards, np.float32), ended & ~truncated, truncated

    def _draw(self) -> None:
        """Each frame a pattern of its own, and its address in the corner."""
        self._observations = np.zeros_like(self._observations)
        for row in range(self.num_envs):
            address = (row, int(self.episode[row]), int(self.at[row]))
            rng = np.random.default_rng([1, *address])
            self._observations[row] = np.kron(rng.integers(0, 256, (3, 8, 8)), np.ones((1, 8, 8))).astype(
                np.uint8
            )
            self._observations[row, :, 0, 0] = address

    def _get_backend_state(self) -> Any:
        return None

    def _set_backend_state(self, state: Any) -> None:
        raise AssertionError("not called: there is no state")


def address(frame: np.ndarray) -> tuple[int, int, int]:
    """Row, episode and step of a frame `(3, 64, 64)`."""
    row, episode, step = frame[:, 0, 0].tolist()
    return row, episode, step


class WatchedAgent:
    """Wraps an agent's policy: remembers the frames and the states it was asked with."""

    def __init__(self, agent: Agent):
        self.frames: list[np.ndarray] = []
        self.states: list[LSTMState] = []
        self._policy = agent.policy

    def __call__(self, frames: torch.Tensor, state: LSTMState) -> ActorCriticOutput:
        self.frames.append(frames.numpy().copy())
        self.states.append(LSTMState(*(part.clone() for part in state)))
        return self._policy(frames, state)

    def assert_fresh_exactly_at_starts(self, since: int = 0) -> None:
        """The state is zero where an episode starts, and nowhere else."""
        for frames, state in zip(self.frames[since:], self.states[since:], strict=True):
            for row, frame in enumerate(frames):
                fresh = not state.hx[row].any() and not state.cx[row].any()
                assert fresh == (address(frame)[2] == 0), address(frame)

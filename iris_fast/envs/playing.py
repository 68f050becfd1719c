"""The play loop: several environments at once, played by any function from frames and a state to actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from iris_fast.models.actor_critic import LSTMState

from .interface import FrameVectorEnv

# From observations `(envs, 3, size, size)` uint8, the state and a step number to actions `(envs,)` and the next
# state.
Act = Callable[[np.ndarray, LSTMState, int], tuple[np.ndarray, LSTMState]]


class Step(NamedTuple):
    """One step of all environments; `following`: the next observations (for an ended episode, its last one)."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray
    following: np.ndarray


class PlayLoop:
    """Steps environments and starts episodes with a state of zeros.

    It does not start episodes by itself: the caller first handles the ended ones, then calls `restart`.
    """

    def __init__(self, env: FrameVectorEnv, act: Act):
        self.env = env
        self.act = act
        self.observations: np.ndarray | None = None  # None before the first episodes
        self.state: LSTMState | None = None
        self.steps = 0  # steps of all environments together; this number addresses the draws of actions

    def begin(self, seed: int) -> None:
        """Starts the first episodes in all environments; the caller sets the state."""
        self.observations, _ = self.env.reset(seed=seed % 2**31)

    def step(self) -> Step:
        """Plays one step in each environment."""
        observations, state = self.observations, self.state
        if observations is None or state is None:
            raise RuntimeError("no episode has started: call begin, and set the state")
        actions, self.state = self.act(observations, state, self.steps)
        self.observations, rewards, terminations, truncations, _ = self.env.step(actions)
        self.steps += 1
        return Step(observations, actions, rewards, terminations | truncations, self.observations)

    def restart(self, rows: np.ndarray) -> None:
        """Starts new episodes in the environments where `rows` `(envs,)` bool is True."""
        self.observations, _ = self.env.reset(options={"reset_mask": rows})
        if self.state is not None:
            keep = torch.from_numpy(~rows)[:, None].to(self.state.hx.device)
            self.state = LSTMState(*(torch.where(keep, part, torch.zeros_like(part)) for part in self.state))


@dataclass
class PlayedSteps:
    """Steps of one environment; `last` is the final observation of an ended episode, if it was kept."""

    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)
    last: np.ndarray | None = None

    def add(self, step: Step, row: int) -> None:
        """Adds the step of one row's environment."""
        self.frames.append(step.observations[row].copy())
        self.actions.append(int(step.actions[row]))
        self.rewards.append(float(step.rewards[row]))
        self.ends.append(bool(step.ends[row]))

    @property
    def film(self) -> list[np.ndarray]:
        """The frames, and the last observation if it was kept."""
        return self.frames if self.last is None else [*self.frames, self.last]

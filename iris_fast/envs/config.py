"""Settings of an environment, which need no package of environments."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from iris_fast.errors import UserError


def whole_number(name: str, value: Any) -> int:
    """`value` as an int, from Python's or NumPy's integers; UserError with its name for anything else."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return int(operator.index(value))
    except TypeError:
        raise UserError(f"{name} must be a whole number, got {value!r}") from None


@dataclass(frozen=True)
class EnvConfig:
    """Settings of an Atari environment, under the public implementation's names (Catch reads only `size`).

    Attributes:
        size: height and width of an observation, pixels.
        max_episode_steps: limit of a game in RAW frames, the no-ops at its start included
            (20,000 in training, 108,000 in test).
        noop_max: a game starts with 1 to `noop_max` raw frames of no-op, uniformly (30 in training, 1 in
            test).
        frame_skip: raw frames an action is held for.
        done_on_life_loss: a lost life ends the episode, and the game goes on in the next one.
        clip_reward: replace the reward of a step by its sign.

    Raises:
        UserError: a number is below 1, or the no-ops alone reach the limit of raw frames.
    """

    size: int = 64
    max_episode_steps: int = 20_000
    noop_max: int = 30
    frame_skip: int = 4
    done_on_life_loss: bool = True
    clip_reward: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "max_episode_steps", "noop_max", "frame_skip"):
            value = whole_number(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if value < 1:
                raise UserError(f"{name}={value} is not possible for an environment: give at least 1")
        if self.max_episode_steps <= self.noop_max:
            raise UserError(
                f"max_episode_steps={self.max_episode_steps} (raw frames) leaves nothing to play after "
                f"noop_max={self.noop_max} no-ops: raise it above noop_max"
            )


def checked_seed(seed: Any) -> int:
    """A seed as an int. Raises ValueError unless it is one non-negative integer of Python or NumPy."""
    try:
        number = whole_number("seed", seed)
    except UserError:
        number = -1
    if number < 0:
        raise ValueError(
            f"seed={seed!r} is not possible for an environment: give one integer, 0 or more, for all rows"
        )
    return number

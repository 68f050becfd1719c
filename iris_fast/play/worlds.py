"""The worlds that a tab plays in, a step at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iris_fast.acting import ActingConfig, Actor
from iris_fast.envs.playing import PlayLoop
from iris_fast.models.actor_critic import ActorCriticOutput, LSTMState

from .loading import Player


@dataclass
class Hands:
    """Who chooses the actions. The policy runs in either case, so that the agent goes on from where the person
    stopped."""

    person: bool = False
    held: int = 0  # the person's action
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Moment:
    """A frame, and the step that led to it.

    `frame`: `(3, 64, 64)` uint8; `action`: None at the first frame of an episode; `output`: the policy's, on the
    frame before, from which the agent would choose.
    """

    frame: np.ndarray
    action: int | None = None
    reward: float = 0.0
    end: bool = False
    person: bool = False
    output: ActorCriticOutput | None = None


class Real:
    """The game itself, in the one play loop."""

    name = "real"

    def __init__(self, player: Player, hands: Hands):
        self.player = player
        self.hands = hands
        self._actor = Actor(player.policy, ActingConfig(0.0, True, hands.temperature, 0), hands.seed)
        self._env = player.make_env(hands.seed)
        self._loop = PlayLoop(self._env, self._act)
        self._loop.begin(hands.seed)
        self._loop.state = player.agent.actor_critic.initial_state(1)
        self.moment = Moment(self._frame())

    def _act(self, observations: np.ndarray, state: LSTMState, number: int) -> tuple[np.ndarray, LSTMState]:
        hands, actor = self.hands, self._actor
        actor.config = replace(actor.config, temperature=hands.temperature)
        actions, state = actor(observations, state, number)
        return (np.full_like(actions, hands.held) if hands.person else actions), state

    def _frame(self) -> np.ndarray:
        assert self._loop.observations is not None
        return self._loop.observations[0]

    def restart(self) -> Moment:
        """Starts the next episode."""
        self._loop.restart(np.ones(1, bool))
        self.moment = Moment(self._frame())
        return self.moment

    @torch.no_grad()
    def step(self) -> Moment:
        """One step; after the end of an episode, the first frame of the next."""
        if self.moment.end:
            return self.restart()
        step = self._loop.step()
        self.moment = Moment(
            step.following[0],
            int(step.actions[0]),
            float(step.rewards[0]),
            bool(step.ends[0]),
            self.hands.person,
            self._actor.output,
        )
        return self.moment

    def images(self, panels: bool) -> dict[str, np.ndarray]:
        """The frame; with `panels` also the emulator's screen, and what the agent sees of the frame."""
        frame = self.moment.frame
        images = {"observation": picture(frame)}
        if panels:
            seen = self.player.agent.reconstruct(torch.from_numpy(frame[None]).to(self.player.agent.device))
            images |= {"screen": self._env.screen(0), "reconstruction": picture(pixels(seen[0]))}
        return images

    def close(self) -> None:
        self._env.close()


def pixels(frame: Tensor) -> np.ndarray:
    """A frame in [0, 1] as uint8."""
    found: np.ndarray = (frame * 255).round().to(torch.uint8).cpu().numpy()
    return found


def picture(frame: np.ndarray) -> np.ndarray:
    """`(3, height, width)` as `(height, width, 3)`."""
    return np.ascontiguousarray(frame.transpose(1, 2, 0))

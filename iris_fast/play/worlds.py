"""The worlds that a tab plays in: the game, the dream, and the dream beside the game, in the one play loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iris_fast.acting import ActingConfig, Actor, choose_actions
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.envs.playing import PlayLoop
from iris_fast.imagination.dream import PlayedDream, StepLogits
from iris_fast.imagination.environment import DreamEnv, SeenDream
from iris_fast.models.actor_critic import ActorCriticOutput, LSTMState
from iris_fast.models.frames import unit_frames
from iris_fast.randomness import PhiloxDraws

from .interface import MessageError
from .loading import Player

PARTED = 0.002
"""The mean absolute difference, of brightness from 0 to 1, above which two frames have parted: eight pixels of the
64 × 64 that turn from black to white."""


@dataclass
class Hands:
    """Who chooses the actions. The policy runs in either case, so that the agent goes on from where the person
    stopped."""

    person: bool = False
    held: int = 0  # the person's action
    temperature: float = 1.0
    seed: int = 0
    thoughts: bool = False  # whether the world model follows the game, to say what it expected

    def chosen(self, actions: np.ndarray) -> np.ndarray:
        """The agent's actions, or the person's in their place."""
        return np.full_like(actions, self.held) if self.person else actions


@dataclass(frozen=True)
class Moment:
    """A frame, and the step that led to it.

    `frame`: `(3, 64, 64)` uint8; `action`: None at the first frame of an episode; `output`: the policy's, on the
    frame before, from which the agent would choose; `tokens` `(16,)` int64 of the frame; `logits`: of what the
    world model expected at this step.
    """

    frame: np.ndarray
    action: int | None = None
    reward: float = 0.0
    end: bool = False
    person: bool = False
    output: ActorCriticOutput | None = None
    tokens: np.ndarray | None = None
    logits: StepLogits | None = None
    context: bool = False  # the dream has just rebuilt its context
    fork: dict[str, Any] | None = None
    dreamt: np.ndarray | None = None  # the dream's frame beside the game's


class World:
    """An environment in the play loop, a step at a time."""

    name: str
    image: str
    """The name of its frame on the page."""

    def __init__(self, player: Player, hands: Hands, env: FrameVectorEnv):
        self.player = player
        self.hands = hands
        self.steps, self.total = 0, 0.0  # of this episode: steps, and its return
        self._env = env
        self._loop = PlayLoop(env, self._act)
        self._loop.begin(hands.seed)
        self._loop.state = player.agent.actor_critic.initial_state(1)
        self._output: ActorCriticOutput | None = None
        self.moment = self._first()

    def _act(self, frames: np.ndarray, state: LSTMState, number: int) -> tuple[np.ndarray, LSTMState]:
        raise NotImplementedError

    def _first(self) -> Moment:
        self.steps, self.total = 0, 0.0
        assert self._loop.observations is not None
        return Moment(self._loop.observations[0])

    def restart(self) -> None:
        """Starts the next episode."""
        self._loop.restart(np.ones(1, bool))
        self.moment = self._first()

    @torch.no_grad()
    def step(self) -> None:
        """One step; after the end of an episode, the first frame of the next."""
        if self.moment.end:
            self.restart()
            return
        step = self._loop.step()
        self.steps += 1
        self.total += float(step.rewards[0])
        self.moment = self._after(
            Moment(
                step.following[0],
                int(step.actions[0]),
                float(step.rewards[0]),
                bool(step.ends[0]),
                self.hands.person,
                self._output,
            )
        )

    def _after(self, moment: Moment) -> Moment:
        return moment

    def images(self, panels: bool) -> dict[str, np.ndarray]:
        """What the page draws, `(height, width, 3)` uint8 each."""
        return {self.image: picture(self.moment.frame)}

    def replace_token(self, index: int, code: int) -> None:
        """Exchanges one token of the present frame of a dream."""
        raise MessageError("The game's frames cannot be changed: replace tokens in a dream.")

    def close(self) -> None:
        self._env.close()


class Real(World):
    """The game itself. With thoughts the world model follows it: it is fed the game's own tokens, and says at each
    step what it expected."""

    name = "real"
    image = "observation"

    def __init__(self, player: Player, hands: Hands):
        self._actor = Actor(self._policy, ActingConfig(0.0, True, hands.temperature, 0), hands.seed)
        self._looked: tuple[np.ndarray, Tensor, Tensor] | None = None
        self._follower: PlayedDream | None = None
        super().__init__(player, hands, player.make_env(hands.seed))

    def _act(self, frames: np.ndarray, state: LSTMState, number: int) -> tuple[np.ndarray, LSTMState]:
        actor = self._actor
        actor.config = replace(actor.config, temperature=self.hands.temperature)
        actions, state = actor(frames, state, number)
        self._output = actor.output
        return self.hands.chosen(actions), state

    def look(self, frame: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens `(1, 16)` and reconstruction of a frame; those of the last frame are kept, because the policy,
        the panels and the world model all ask for them."""
        if self._looked is None or self._looked[0] is not frame:
            self._looked = (frame, *self.player.policy.look(frame[None]))
        return self._looked[1:]

    def _policy(self, frames: np.ndarray, state: LSTMState) -> ActorCriticOutput:
        _, seen = self.look(self.moment.frame)  # which `frames` holds
        return self.player.policy.on_reconstructions(seen, state)

    def _first(self) -> Moment:
        self._follower = None
        return super()._first()

    def _after(self, moment: Moment) -> Moment:
        if not self.hands.thoughts:
            self._follower = None
            return moment
        if self._follower is None:
            before, _ = self.look(self.moment.frame)
            self._follower = self.player.engine.dream(before, PhiloxDraws(0))
        tokens, _ = self.look(moment.frame)
        actions = torch.tensor([moment.action], device=tokens.device)
        _, logits = self._follower.step_with_logits(actions, next_tokens=tokens)
        return replace(moment, tokens=tokens[0].cpu().numpy(), logits=logits)

    def images(self, panels: bool) -> dict[str, np.ndarray]:
        """The frame; with `panels` the emulator's screen; with panels or thoughts what the agent sees."""
        images = super().images(panels)
        if panels:
            images["screen"] = self._env.screen(0)
        if panels or self.hands.thoughts:
            _, seen = self.look(self.moment.frame)
            images["reconstruction"] = picture(pixels(seen[0]))
        return images


class Dream(World):
    """Inside the world model. Each dream starts from the first frame of an episode of the game."""

    name = image = "dream"

    def __init__(self, player: Player, hands: Hands):
        self._game = player.make_env(hands.seed)
        super().__init__(player, hands, player.make_dream(self._first_tokens))

    def _first_tokens(self, seed: int) -> Tensor:
        frames, _ = self._game.reset(seed=seed % 2**31)
        return tokens_of(self.player, frames[0])

    @property
    def dream(self) -> SeenDream:
        """The dream under way."""
        assert isinstance(self._env, DreamEnv)
        return self._env.now

    def _act(self, frames: np.ndarray, state: LSTMState, number: int) -> tuple[np.ndarray, LSTMState]:
        dream, config = self.dream, ActingConfig(0.0, True, self.hands.temperature, 0)
        self._output = output = self.player.policy.on_reconstructions(dream.seen, state)
        logits = output.logits_actions.squeeze(1)
        return self.hands.chosen(choose_actions(logits, config, dream.seed, dream.position)), output.state

    def _first(self) -> Moment:
        return _with_dream(super()._first(), self.dream)

    def _after(self, moment: Moment) -> Moment:
        return _with_dream(moment, self.dream)

    def replace_token(self, index: int, code: int) -> None:
        _replace_token(self.dream, index, code)
        self.moment = _with_dream(replace(self.moment, frame=pixels(self.dream.seen[0])), self.dream)

    def close(self) -> None:
        super().close()
        self._game.close()


class Fork:
    """The game, and beside it a dream that starts from its present frame and gets the same actions.

    Rewards part at the first step whose rewards have different signs, ends at the first step that only one of them
    ends, and frames at the first step at which the mean absolute difference between the dream's frame and the
    reconstruction of the game's is above `PARTED`. The last frame of an episode is left out: the replay has no frame
    after an end, so the world model has learned none.
    """

    name = "fork"

    def __init__(self, real: Real):
        self.real = real
        self.player = real.player
        self._start()

    def _start(self) -> None:
        tokens, _ = self.real.look(self.real.moment.frame)
        self.dream: SeenDream | None = SeenDream(self.player.engine, tokens, self.real.hands.seed)
        self.forked: dict[str, Any] = {
            "steps": 0,
            "first_reward": None,
            "first_end": None,
            "first_frame": None,
            "difference": 0.0,
        }
        self._show(self.real.moment)

    def _show(self, moment: Moment) -> None:
        assert self.dream is not None
        shown = _with_dream(moment, self.dream)
        self.moment = replace(shown, fork=dict(self.forked), dreamt=pixels(self.dream.seen[0]))

    @property
    def hands(self) -> Hands:
        return self.real.hands

    @property
    def steps(self) -> int:
        return self.real.steps

    @property
    def total(self) -> float:
        return self.real.total

    def restart(self) -> None:
        """Starts the next episode of the game, and a dream from its first frame."""
        self.real.restart()
        self._start()

    @torch.no_grad()
    def step(self) -> None:
        """One step of both; after an end of the game, its next episode and a dream from there."""
        if self.real.moment.end:
            self.restart()
            return
        self.real.step()
        moment = self.real.moment
        assert self.dream is not None and moment.action is not None
        outcome = self.dream.step(torch.tensor([moment.action], device=self.player.agent.device))
        _, seen = self.real.look(moment.frame)
        difference = float((seen - self.dream.seen).abs().mean())
        self.forked["steps"] += 1
        parted = {
            "first_reward": np.sign(moment.reward) != float(outcome.rewards[0]),
            "first_end": moment.end != bool(outcome.ends[0]),
            "first_frame": difference > PARTED and not moment.end,
        }
        for name, apart in parted.items():
            if apart and self.forked[name] is None:
                self.forked[name] = self.forked["steps"]
        self.forked["difference"] = difference
        self._show(moment)

    def images(self, panels: bool) -> dict[str, np.ndarray]:
        """The game's frame and the dream's, which has the tokens."""
        assert self.moment.dreamt is not None
        images = self.real.images(panels)
        if not panels:
            images.pop("reconstruction", None)
        return {**images, "dream": picture(self.moment.dreamt)}

    def replace_token(self, index: int, code: int) -> None:
        """Exchanges one token of the dream's present frame."""
        assert self.dream is not None
        _replace_token(self.dream, index, code)
        self._show(self.real.moment)

    def close(self) -> None:
        """Ends the dream; the game goes on."""
        self.dream = None


def _with_dream(moment: Moment, dream: SeenDream) -> Moment:
    tokens = dream.tokens[0].cpu().numpy()
    return replace(moment, tokens=tokens, logits=dream.logits, context=dream.rebuilt)


def _replace_token(dream: SeenDream, index: int, code: int) -> None:
    codes = len(dream.dream.world_model.embedder.embedding_tables[1].weight)  # type: ignore[arg-type]
    if code >= codes:
        raise MessageError(f"There are {codes} codes, from 0: there is no code {code}.")
    if index >= dream.tokens.shape[1]:
        raise MessageError(f"A frame has {dream.tokens.shape[1]} tokens: there is no token {index}.")
    tokens = dream.tokens.clone()
    tokens[0, index] = code
    dream.replace(tokens)


def tokens_of(player: Player, frame: np.ndarray) -> Tensor:
    """Tokens `(1, 16)` of a frame `(3, 64, 64)` uint8."""
    frames = torch.from_numpy(frame[None]).to(player.agent.device)
    return player.agent.coder.tokens_of(unit_frames(frames))


def pixels(frame: Tensor) -> np.ndarray:
    """A frame in [0, 1] as uint8."""
    found: np.ndarray = (frame * 255).round().to(torch.uint8).cpu().numpy()
    return found


def picture(frame: np.ndarray) -> np.ndarray:
    """`(3, height, width)` as `(height, width, 3)`."""
    return np.ascontiguousarray(frame.transpose(1, 2, 0))

"""The interface of imagination engines: their inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.models.actor_critic import LSTMState
from iris_fast.models.frames import check_frames
from iris_fast.randomness import PhiloxDraws

from .dream import PlayedDream

EngineName = Literal["auto", "oracle", "cpu", "cuda_graph"]
HalfOrFloat = Literal["float32", "float16"]
WeightsDtype = Literal["float32", "float16", "int8"]
LayerLaunches = Literal["auto", "2", "5"]


@dataclass
class ImaginationStart:
    """The start of a batch of rollouts.

    `burn_in_frames`: `(batch, burn_in, 3, 64, 64)` float32 in [0, 1], reconstructed; `burn_in_mask`:
    `(batch, burn_in)` bool, False where left-padded; `first_tokens`: `(batch, 16)` int64; `first_row`: the number of
    the first row here in a larger batch of which these rows are a part. It addresses the draws, so a part of a batch
    is imagined as in the whole.
    """

    burn_in_frames: Tensor
    burn_in_mask: Tensor
    first_tokens: Tensor
    first_row: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for frames that are not floats in [0, 1]; values on a GPU are not checked, because
        reading them would wait."""
        if not self.burn_in_frames.is_cuda:
            check_frames(self.burn_in_frames, uint8=False)


class Rollout(NamedTuple):
    """A batch of imagined trajectories; nothing in it carries a gradient.

    `observations`: `(batch, horizon, 3, 64, 64)` float32 in [0, 1], what the policy saw; `tokens`:
    `(batch, horizon, 16)` int64 of the same frames; `actions`: `(batch, horizon)` int64; `rewards`:
    `(batch, horizon)` float32; `ends`: `(batch, horizon)` bool; `logits_actions`: `(batch, horizon, num_actions)` and
    `values`: `(batch, horizon)`, the policy's outputs while acting; `start_state`: the recurrent state after the
    burn-in.
    """

    observations: Tensor
    tokens: Tensor
    actions: Tensor
    rewards: Tensor
    ends: Tensor
    logits_actions: Tensor
    values: Tensor
    start_state: LSTMState


class ImaginationEngine(Protocol):
    """Imagines with its agent's current weights (`Agent.weights_changed`).

    The same seed gives the same trajectory in every engine.
    """

    name: str
    agent: Agent

    def imagine(self, start: ImaginationStart, horizon: int, seed: int) -> Rollout:
        """Rolls the policy out for `horizon` steps; draws are addressed by `seed`. Raises as `check_rollout`."""
        ...

    def dream(self, first_tokens: Tensor, draws: PhiloxDraws) -> PlayedDream:
        """A new dream from `first_tokens` `(batch, 16)` int64, to be stepped from outside."""
        ...

    def frames_of(self, tokens: Tensor) -> Tensor:
        """The policy's frames `(batch, 3, 64, 64)` in [0, 1] for tokens `(batch, 16)`."""
        ...


def check_rollout(agent: Agent, horizon: int) -> None:
    """ValueError for a horizon below 1, or for an agent in training mode."""
    if any(part.training for part in (agent, *agent.children())):
        raise ValueError("imagination needs the agent in evaluation mode: call agent.eval()")
    if horizon < 1:
        raise ValueError(f"the horizon must be at least 1 step, not {horizon}")

"""The oracle: imagination in plain PyTorch, the definition that fast engines are tested against."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.kernels.common.arguments import with_checked_types
from iris_fast.kernels.common.arithmetic import exact_on_cpu
from iris_fast.models.actor_critic import LSTMState
from iris_fast.models.tokenizer import in_pieces
from iris_fast.randomness import Draws, PhiloxDraws, Purpose

from .dream import Dream
from .engine import ImaginationStart, Rollout, check_rollout


@dataclass
class _Recorder:
    """Collects one tensor a step for each field of a rollout."""

    fields: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, **step: Tensor) -> None:
        for name, value in step.items():
            self.fields.setdefault(name, []).append(value)

    def stacked(self) -> dict[str, Tensor]:
        return {name: torch.stack(values, dim=1) for name, values in self.fields.items()}


class OracleEngine:
    """Runs the agent's own modules step by step. The agent must be in evaluation mode.

    On a CPU neither autocast nor PyTorch's precision switches have an effect.
    """

    name = "oracle"

    def __init__(self, agent: Agent):
        self.agent = agent

    def frames_of(self, tokens: Tensor) -> Tensor:
        """The policy's frames `(batch, 3, 64, 64)` in [0, 1] for tokens `(batch, 16)`.

        Decoded in pieces of one size, so that a row's frame does not depend on its batch.
        """
        return in_pieces(self.agent.tokenizer.frames_of, tokens, pad=True)

    @with_checked_types
    def imagine(self, start: ImaginationStart, horizon: int, seed: int) -> Rollout:
        return self.imagine_with(start, horizon, PhiloxDraws(seed, start.first_row))

    @torch.no_grad()
    @with_checked_types
    def imagine_with(self, start: ImaginationStart, horizon: int, draws: Draws) -> Rollout:
        """As `imagine`, with any source of samples (recorded ones, for instance)."""
        check_rollout(self.agent, horizon)
        with exact_on_cpu(self.agent.device):
            return self._roll_out(start, horizon, draws)

    def dream(self, first_tokens: Tensor, draws: Draws) -> Dream:
        """A new dream from `first_tokens` `(batch, 16)` int64."""
        return Dream(self.agent.world_model, first_tokens, draws)

    def _roll_out(self, start: ImaginationStart, horizon: int, draws: Draws) -> Rollout:
        start_state = self.agent.actor_critic.burn_in(start.burn_in_frames, start.burn_in_mask)
        dream = self.dream(start.first_tokens, draws)
        recorder = _Recorder()
        state = start_state
        for step in range(horizon):
            state = self._step(dream, state, draws, recorder, last=step == horizon - 1)
        return Rollout(**recorder.stacked(), start_state=start_state)

    def _step(
        self, dream: Dream, state: LSTMState, draws: Draws, recorder: _Recorder, last: bool
    ) -> LSTMState:
        frames = self.frames_of(dream.tokens)
        policy = self.agent.actor_critic(frames.unsqueeze(1), state)
        logits = policy.logits_actions.squeeze(1)
        tokens_per_block = dream.world_model.config.tokens_per_block
        actions = draws.sample(logits, dream.steps * tokens_per_block + tokens_per_block - 1, Purpose.ACTION)
        tokens = dream.tokens
        outcome = dream.step(actions, generate_frame=not last)
        recorder.add(
            observations=frames,
            tokens=tokens,
            actions=actions,
            rewards=outcome.rewards,
            ends=outcome.ends,
            logits_actions=logits,
            values=policy.values.squeeze(1),
        )
        return policy.state

"""The world model run as an environment: actions in; rewards, ends and next frame's tokens out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from iris_fast.models.world_model import WorldModel
from iris_fast.randomness import Draws, Purpose


class DreamStep(NamedTuple):
    """`rewards` `(batch,)` float32 in {-1, 0, 1}; `ends` `(batch,)` bool; `tokens` `(batch, 16)` int64.

    `tokens` is None after a step without a next frame.
    """

    rewards: Tensor
    ends: Tensor
    tokens: Tensor | None


class StepLogits(NamedTuple):
    """The logits of a step's draws, float32.

    `rewards` `(batch, 3)`; `ends` `(batch, 2)`; `observations` `(batch, 16, vocab_size)`, None where no frame
    was generated.
    """

    rewards: Tensor
    ends: Tensor
    observations: Tensor | None


class PlayedDream(Protocol):
    """A dream of any engine. The same draws give the same dream in each."""

    world_model: WorldModel
    tokens: Tensor  # (batch, 16) int64, the current frame

    @property
    def steps(self) -> int:
        """Number of steps since the start."""

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""

    def step_with_logits(
        self, actions: Tensor, generate_frame: bool = True, next_tokens: Tensor | None = None
    ) -> tuple[DreamStep, StepLogits]:
        """Takes `actions` `(batch,)` int64; `next_tokens` `(batch, 16)` int64 take the place of a drawn frame."""

    def replace(self, tokens: Tensor) -> None:
        """Exchanges the current frame for `tokens` `(batch, 16)`; what came before it stays in the context."""


class Dream:
    """A batch of imagined episodes of one length. Beyond the context it rebuilds the cache and continues.

    The position that addresses a draw counts from the start, even when the cache is rebuilt:
    step * tokens_per_block + slot, where slots 0 to 15 are frame tokens and 16 is the action.
    """

    def __init__(self, world_model: WorldModel, first_tokens: Tensor, draws: Draws):
        """`first_tokens`: `(batch, 16)` int64, the frame that the dream starts from."""
        self.world_model = world_model
        self.draws = draws
        self.tokens = first_tokens
        self.steps = 0
        self.cache = world_model.new_cache(first_tokens.shape[0])
        self._rebuild_cache()

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return self.cache.length

    def step(
        self, actions: Tensor, generate_frame: bool = True, next_tokens: Tensor | None = None
    ) -> DreamStep:
        """Takes `actions` `(batch,)` int64; samples reward, end and, unless told not to, the next frame.

        `next_tokens` `(batch, 16)` int64: the next frame, in place of a sampled one.
        """
        return self.step_with_logits(actions, generate_frame, next_tokens)[0]

    @torch.no_grad()
    def step_with_logits(
        self, actions: Tensor, generate_frame: bool = True, next_tokens: Tensor | None = None
    ) -> tuple[DreamStep, StepLogits]:
        """As `step`, with the logits of the draws."""
        slots = self.world_model.frame_tokens
        passes = slots + 1 if generate_frame else 1
        if self.cache.length + passes > self.cache.max_tokens:
            self._rebuild_cache()
        position = self.steps * (slots + 1) + slots
        features = self._pass(self.world_model.embedder.actions(actions))
        model = self.world_model
        logits = StepLogits(model.head_rewards(features), model.head_ends(features), None)
        rewards = self._sample(logits.rewards, position, Purpose.REWARD).float() - 1
        ends = self._sample(logits.ends, position, Purpose.END).bool()
        self.steps += 1
        if not generate_frame:
            return DreamStep(rewards, ends, None), logits
        self.tokens, observations = self._generate_frame(features, next_tokens)
        return DreamStep(rewards, ends, self.tokens), logits._replace(observations=observations)

    def replace(self, tokens: Tensor) -> None:
        """Exchanges the current frame for `tokens` `(batch, 16)`; what came before it stays in the context."""
        self.tokens = tokens
        self.cache.length -= self.world_model.frame_tokens
        self._feed_frame()

    def _generate_frame(self, features: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """Samples 16 tokens, each from the features of the previous one, and adds the last to the cache.

        Returns them and their logits `(batch, 16, vocab_size)`. `given`: the tokens, which are then not sampled.
        """
        tokens, logits = [], []
        slots = self.world_model.frame_tokens
        for slot in range(slots):
            logits.append(self.world_model.head_observations(features))
            if given is None:
                tokens.append(self._sample(logits[-1], self.steps * (slots + 1) + slot, Purpose.TOKEN))
            else:
                tokens.append(given[:, slot])
            features = self._pass(self.world_model.embedder.tokens(tokens[-1]))
        return torch.stack(tokens, dim=1), torch.stack(logits, dim=1)

    def _pass(self, embedding: Tensor) -> Tensor:
        """Features `(batch, embed_dim)` of one new token."""
        return self.world_model.step(embedding.unsqueeze(1), self.cache).squeeze(1)

    def _sample(self, logits: Tensor, position: int, purpose: Purpose) -> Tensor:
        return self.draws.sample(logits, position, purpose)

    def _rebuild_cache(self) -> None:
        self.cache.reset()
        self._feed_frame()

    @torch.no_grad()
    def _feed_frame(self) -> None:
        self.world_model.step(self.world_model.embedder.tokens(self.tokens), self.cache)

"""The world model run as an environment: actions in; rewards, ends and next frame's tokens out."""

from __future__ import annotations

from typing import NamedTuple

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

    @torch.no_grad()
    def step(self, actions: Tensor, generate_frame: bool = True) -> DreamStep:
        """Takes `actions` `(batch,)` int64; samples reward, end and, unless told not to, the next frame."""
        slots = self.world_model.frame_tokens
        passes = slots + 1 if generate_frame else 1
        if self.cache.length + passes > self.cache.max_tokens:
            self._rebuild_cache()
        position = self.steps * (slots + 1) + slots
        features = self._pass(self.world_model.embedder.actions(actions))
        rewards = self._sample(self.world_model.head_rewards(features), position, Purpose.REWARD).float() - 1
        ends = self._sample(self.world_model.head_ends(features), position, Purpose.END).bool()
        self.steps += 1
        if not generate_frame:
            return DreamStep(rewards, ends, None)
        self.tokens = self._generate_frame(features)
        return DreamStep(rewards, ends, self.tokens)

    def _generate_frame(self, features: Tensor) -> Tensor:
        """Samples 16 tokens, each from the features of the previous one, and adds the last to the cache."""
        tokens = []
        slots = self.world_model.frame_tokens
        for slot in range(slots):
            logits = self.world_model.head_observations(features)
            tokens.append(self._sample(logits, self.steps * (slots + 1) + slot, Purpose.TOKEN))
            features = self._pass(self.world_model.embedder.tokens(tokens[-1]))
        return torch.stack(tokens, dim=1)

    def _pass(self, embedding: Tensor) -> Tensor:
        """Features `(batch, embed_dim)` of one new token."""
        return self.world_model.step(embedding.unsqueeze(1), self.cache).squeeze(1)

    def _sample(self, logits: Tensor, position: int, purpose: Purpose) -> Tensor:
        return self.draws.sample(logits, position, purpose)

    def _rebuild_cache(self) -> None:
        self.cache.reset()
        with torch.no_grad():
            self.world_model.step(self.world_model.embedder.tokens(self.tokens), self.cache)

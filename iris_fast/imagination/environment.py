"""The dream as an environment: one imagined episode after another, for the play loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.randomness import PhiloxDraws, derive_seed

from .dream import DreamStep, StepLogits
from .engine import ImaginationEngine


class SeenDream:
    """A dream with its frames: decoded tokens, as the policy sees them.

    Attributes:
        seen: `(batch, 3, 64, 64)` float32 in [0, 1], the current frames.
        logits: those of the last step's draws; None before the first.
        rebuilt: whether the last step rebuilt the context from its frame alone.
    """

    def __init__(self, engine: ImaginationEngine, first_tokens: Tensor, seed: int):
        self.engine = engine
        self.seed = seed
        self.dream = engine.dream(first_tokens, PhiloxDraws(seed))
        self.seen = engine.frames_of(first_tokens)
        self.logits: StepLogits | None = None
        self.rebuilt = False

    @property
    def tokens(self) -> Tensor:
        return self.dream.tokens

    @property
    def position(self) -> int:
        """The address of the present action's draw, as in engines."""
        block = self.dream.world_model.config.tokens_per_block
        return self.dream.steps * block + block - 1

    def step(self, actions: Tensor) -> DreamStep:
        """Takes `actions` `(batch,)` int64; goes on past sampled ends."""
        before = self.dream.length
        outcome, self.logits = self.dream.step_with_logits(actions)
        self.rebuilt = self.dream.length <= before
        self.seen = self.engine.frames_of(self.dream.tokens)
        return outcome

    def replace(self, tokens: Tensor) -> None:
        """Exchanges the current frames for `tokens` `(batch, 16)`, for all that follows too."""
        self.dream.replace(tokens)
        self.seen = self.engine.frames_of(tokens)


class DreamEnv(FrameVectorEnv):
    """One dream at a time. Dream number n of a seed has draws, and a first frame, of its own.

    `now` is the dream under way; observations are its frames, rounded to uint8.
    """

    backend = "dream"

    def __init__(
        self,
        engine: ImaginationEngine,
        first_tokens: Callable[[int], Tensor],
        game: str,
        action_meanings: Sequence[str],
        *,
        size: int,
        steps_per_second: float,
    ):
        """`first_tokens`: gives the tokens `(1, 16)` of the frame that a dream with this seed starts from."""
        super().__init__(game, action_meanings, num_envs=1, size=size, steps_per_second=steps_per_second)
        self._engine = engine
        self._first_tokens = first_tokens
        self._reseed(0)

    def replace(self, tokens: Tensor) -> None:
        """Exchanges the current frame for tokens `(1, 16)`, for all that follows too."""
        self.now.replace(tokens)
        self._observe()

    def _reseed(self, seed: int) -> None:
        self._seed, self._number = seed, 0

    def _reset_rows(self, rows: list[int]) -> None:
        seed = derive_seed(self._seed, "dream", self._number)
        self._number += 1
        self.now = SeenDream(self._engine, self._first_tokens(seed), seed)
        self._observe()

    def _step_rows(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outcome = self.now.step(torch.from_numpy(actions.astype(np.int64)).to(self.now.seen.device))
        self._observe()
        ends = outcome.ends.cpu().numpy()
        self._game_over = ends.copy()
        return outcome.rewards.cpu().numpy(), ends, np.zeros(1, bool)

    def _observe(self) -> None:
        self._observations = (self.now.seen * 255).round().to(torch.uint8).cpu().numpy()

    def _get_backend_state(self) -> Any:
        return None

    def _set_backend_state(self, state: Any) -> None:
        raise NotImplementedError("a dream cannot be restored: start it again from its seed")

"""The actor-critic with its convolutions in C++ (`csrc/`), for rollouts on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .actor_critic import POOLINGS, ActorCritic, ActorCriticOutput, LSTMState
from .cpu_weights import WeightVersions, require_extension, weight_arrays, weight_versions

if TYPE_CHECKING:
    from iris_fast import _C

NOT_NEEDED = ("lstm.", "critic_linear.", "actor_linear.")


class CpuPolicy:
    """`ActorCritic` without gradients: the same results to float32 rounding.

    Weights are packed at the first call and again at the first one after they have changed. Raises RuntimeError
    without the C++ extension, ValueError for weights that are not float32 on the CPU.
    """

    def __init__(
        self,
        actor_critic: ActorCritic,
        pool: _C.ThreadPool,
        resolution: int,
        *,
        group_size: int = 0,
        simd: str = "auto",
    ):
        """`resolution`: of the frames; `group_size`: those that one thread takes at a time, 0 for at most 8."""
        weight_arrays(actor_critic)  # raises now what packing would raise later
        self.actor_critic = actor_critic
        self._pool = pool
        self._resolution = resolution
        self._group_size = group_size
        self._simd = simd
        self._packed: _C.PolicyFeatures | None = None
        self._packed_weights: WeightVersions = []

    @torch.no_grad()
    def __call__(self, frames: Tensor, state: LSTMState, mask: Tensor | None = None) -> ActorCriticOutput:
        """As `ActorCritic.forward`."""
        features = self.features(frames.flatten(0, 1))
        return self.actor_critic.recur(features.unflatten(0, frames.shape[:2]), state, mask)

    def burn_in(self, frames: Tensor, mask: Tensor) -> LSTMState:
        """As `ActorCritic.burn_in`."""
        state = self.actor_critic.initial_state(frames.shape[0])
        return self(frames, state, mask).state if frames.shape[1] else state

    def features(self, frames: Tensor) -> Tensor:
        """Flattened features of frames `(batch, 3, 64, 64)` float32 in [0, 1]."""
        weights = weight_versions(self.actor_critic)
        if self._packed is None or weights != self._packed_weights:
            packed: _C.PolicyFeatures = require_extension().PolicyFeatures(
                weight_arrays(self.actor_critic, skip=NOT_NEEDED),
                self._pool,
                resolution=self._resolution,
                convolutions=POOLINGS,
                group_size=self._group_size,
                simd=self._simd,
            )
            self._packed, self._packed_weights = packed, weights
        return torch.from_numpy(self._packed.compute(frames.contiguous().numpy()))

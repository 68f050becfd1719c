"""The actor-critic in C++ (`csrc/`), for rollouts on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .actor_critic import POOLINGS, ActorCritic, ActorCriticOutput, LSTMState
from .cpu_weights import require_extension, weight_arrays
from .versioned import Version

if TYPE_CHECKING:
    from iris_fast import _C

RECURRENT = ("lstm.", "critic_linear.", "actor_linear.")
"""Prefix of the names of the recurrent weights; the other weights belong to the convolutions."""


class CpuPolicy:
    """`ActorCritic` without gradients: the same results to float32 rounding.

    A row's bits are the same for any number of threads, any batch and any SIMD level. Copied and pickled without
    what is packed.

    Weights are packed at the first call, and again at the first call after a change. Raises RuntimeError
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
        """`resolution`: of the frames; `group_size`: frames that one thread takes at a time, 0 for at most 8."""
        weight_arrays(actor_critic)  # raises here, before packing would raise it later
        self.actor_critic = actor_critic
        self._pool = pool
        self._resolution = resolution
        self._group_size = group_size
        self._simd = simd
        self._packed: tuple[_C.PolicyFeatures, _C.PolicyRecurrence] | None = None
        self._version: Version | None = None  # of what is packed

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_packed": None, "_version": None}

    @torch.no_grad()
    def __call__(self, frames: Tensor, state: LSTMState, mask: Tensor | None = None) -> ActorCriticOutput:
        """As `ActorCritic.forward`."""
        batch, time = frames.shape[:2]
        convolutions, recurrence = self.packed()
        features = _features(convolutions, frames.flatten(0, 1)).unflatten(0, (batch, time))
        logits = frames.new_empty(batch, time, self.actor_critic.actor_linear.out_features)
        values = frames.new_empty(batch, time)
        for step in range(time):
            arrays = (part.detach().contiguous().numpy() for part in (features[:, step], *state))
            hx, cx, logits[:, step], values[:, step] = map(torch.from_numpy, recurrence.step(*arrays))
            if mask is not None:
                keep = mask[:, step, None]
                hx, cx = torch.where(keep, hx, state.hx), torch.where(keep, cx, state.cx)
            state = LSTMState(hx, cx)
        return ActorCriticOutput(logits, values, state)

    def burn_in(self, frames: Tensor, mask: Tensor) -> LSTMState:
        """As `ActorCritic.burn_in`."""
        state = self.actor_critic.initial_state(frames.shape[0])
        return self(frames, state, mask).state if frames.shape[1] else state

    def features(self, frames: Tensor) -> Tensor:
        """Flattened features of frames `(batch, 3, 64, 64)` float32 in [0, 1]."""
        return _features(self.packed()[0], frames)

    def packed(self) -> tuple[_C.PolicyFeatures, _C.PolicyRecurrence]:
        """Convolutions and recurrence, packed from the current weights."""
        version = self.actor_critic.version
        if self._packed is None or version != self._version:
            extension, arrays = require_extension(), weight_arrays(self.actor_critic)
            recurrent = {name: array for name, array in arrays.items() if name.startswith(RECURRENT)}
            convolutions = {name: array for name, array in arrays.items() if name not in recurrent}
            features: _C.PolicyFeatures = extension.PolicyFeatures(
                convolutions,
                self._pool,
                resolution=self._resolution,
                convolutions=POOLINGS,
                group_size=self._group_size,
                simd=self._simd,
            )
            recurrence: _C.PolicyRecurrence = extension.PolicyRecurrence(
                recurrent, self._pool, simd=self._simd
            )
            self._packed, self._version = (features, recurrence), version
        return self._packed


def _features(convolutions: _C.PolicyFeatures, frames: Tensor) -> Tensor:
    return torch.from_numpy(convolutions.compute(frames.detach().contiguous().numpy()))

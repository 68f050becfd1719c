"""The interface of a compared system; `worker.py` calls it in the system's process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

Arrays = dict[str, Tensor]


class System(Protocol):
    """One implementation of IRIS with the weights loaded last. Seconds exclude warm-up and pipes.

    `same_model`: whether it computes the oracle's results from the same weights; if not, `difference` describes it,
    and only `features` is comparable. `goes_on`: whether a training rollout also generates the frame after the last
    action, unlike `rollout`.
    """

    same_model: bool
    difference: str
    goes_on: bool

    def has_parts(self) -> bool:
        """Whether tokens and frames can be made outside a rollout (an engine that is one graph cannot)."""
        ...

    def load(self, weights: Path) -> None:
        """Takes the weights of a file of `weights.save_agent`."""
        ...

    def dream(self, first: Tensor, actions: Tensor, tokens: Tensor | None) -> Arrays:
        """Logits of steps from tokens `first` `(batch, 16)` by `actions` `(batch, steps)`.

        `tokens` `(batch, steps, 16)` are the frames to use as generated; a system that can only sample ignores them
        and returns its samples as `tokens`. Returns `rewards`, `ends` `(batch, steps, classes)` and `observations`
        `(batch, steps, 16, vocab_size)`, or for another model `features` `(batch, steps, embed_dim)`.
        """
        ...

    def decode(self, tokens: Tensor) -> tuple[float, Tensor]:
        """Seconds and frames `(batch, 3, 64, 64)` in [0, 1] of tokens `(batch, 16)`."""
        ...

    def act(self, frames: Tensor) -> tuple[float, Arrays]:
        """Seconds, `logits` `(batch, actions)` and `values` `(batch,)` of the policy's first step on frames."""
        ...

    def generate(self, first: Tensor, actions: Tensor) -> list[float]:
        """Seconds of each step from an empty cache: action pass, sampling, 16 token passes. Starts anew."""
        ...

    def rollout(self, frames: Tensor, horizon: int, seed: int) -> tuple[float, Arrays]:
        """Seconds of a rollout by the system's public function, from frames `(batch, 3, 64, 64)` without burn-in.

        Gives `actions`, `rewards`, `ends` `(batch, horizon)` and `observations` `(batch, horizon, 3, 64, 64)`.
        """
        ...

    def play(self, frames: Tensor) -> float:
        """Seconds of acting on raw frames `(batch, 3, 64, 64)`: reconstruction, policy, one draw a row."""
        ...

    def reconstruct(self, frames: Tensor) -> tuple[float, Tensor]:
        """Seconds of encoding and decoding frames `(batch, 3, 64, 64)`, and the result."""
        ...

    def losses(self, part: str, batch: Arrays, horizon: int) -> dict[str, float]:
        """`loss` and `grad_norm` of a part on a batch of segments, without dropout. Not called for another model."""
        ...

    def train(self, part: str, batch: Arrays, horizon: int, cached: bool, seed: int) -> dict[str, float]:
        """`seconds` of a gradient step; with `cached`, tokens and reconstructions are ready before it starts.

        `seed`: of dropout and of imagined draws. Where they are known: `update_seconds` of clipping and optimizer
        alone, `imagine_seconds` of its rollout with the burn-in, and `frames_remembered`, those of the rollout
        that were not decoded but remembered.
        """
        ...


def seconds_of(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds until the device finishes, and the result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, result

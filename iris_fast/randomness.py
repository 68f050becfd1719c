"""Addressed randomness: every draw is Philox-4x32-10 of (seed; row, position, purpose).

Nothing here has state. The seed of a rollout or gradient step is derived from the run's seed and the step's address
(epoch, part, step), so a resumed run makes the same draws as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from iris_fast.kernels import sample_categorical
from iris_fast.kernels.common.arguments import with_checked_types


class Purpose(IntEnum):
    """The purpose of a draw, the third word of its Philox counter. All engines share these fixed numbers."""

    ACTION = 0
    REWARD = 1
    END = 2
    TOKEN = 3
    EXPLORE = 4
    RANDOM_ACTION = 5


def derive_seed(seed: int, *address: int | str) -> int:
    """A 63-bit seed for the draw stream at `address` below `seed`; distinct addresses are independent."""
    text = ":".join(str(part) for part in (seed, *address))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *address: int | str) -> np.random.Generator:
    """NumPy's counter-based Philox generator at an address, for choices on the host."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *address)))


class Draws(Protocol):
    """The source of samples of an imagined trajectory."""

    def sample(self, logits: Tensor, position: int, purpose: Purpose) -> Tensor:
        """One class `(batch,)` int64 for each row of `logits` `(batch, classes)`."""
        ...


class PhiloxDraws:
    """Samples from the softmax of the logits, addressed by (seed; row, position, purpose)."""

    @with_checked_types
    def __init__(self, seed: int, first_row: int = 0):
        self.seed = seed
        self.first_row = first_row
        self._seed_there: Tensor | None = None

    def sample(self, logits: Tensor, position: int, purpose: Purpose) -> Tensor:
        device, rows = logits.device, None
        if self.first_row:
            rows = torch.arange(self.first_row, self.first_row + logits.shape[0], device=device)
        seed = self.seed if device.type == "cpu" else self._seed_on(device)
        return sample_categorical(logits, seed=seed, position=position, purpose=int(purpose), row=rows)

    def _seed_on(self, device: torch.device) -> Tensor:
        """The seed's 64 bits as a () int64 on the device, made once; with an int, every draw would make a new one."""
        if self._seed_there is None or self._seed_there.device != device:
            signed = self.seed - 2**64 if self.seed >= 2**63 else self.seed
            self._seed_there = torch.full((), signed, dtype=torch.int64, device=device)
        return self._seed_there

"""The per-epoch cache: each replay frame is encoded at most once an epoch, and decoded at most once.

The tokenizer does not change during the world-model and actor-critic phases, so a frame's tokens and its
reconstruction do not either. A 200-step world-model phase at batch 64 x 20 asks for 256,000 frames; the replay
holds at most 100,000.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from iris_fast.models.frame_codec import FrameCoder

from .store import EpisodeStore, on_device

FRAMES_TOGETHER = 512  # gathered from the store at a time


class FrameCache:
    """Tokens and reconstructions of a store's frames, made when first asked for.

    `enabled=False` computes them every time, with the same results, for comparison. Reconstructions are kept in
    float32 while they fit in `max_bytes`; the rest are decoded again. A change of the tokenizer's weights clears the
    cache."""

    def __init__(
        self,
        coder: FrameCoder,
        store: EpisodeStore,
        *,
        enabled: bool = True,
        max_bytes: int = 0,
    ):
        """`coder`: `Agent.coder`, or any other `FrameCoder`."""
        self.coder = coder
        self.tokenizer = coder.tokenizer
        self.store = store
        self.enabled = enabled
        size = store.frames.shape[-1]
        rows = store.capacity + 1
        self._frame_shape = (3, size, size)
        self._reconstruction_rows = min(rows, max_bytes // (3 * size * size * 4)) if enabled else 0
        self.frames_encoded = 0
        self.frames_decoded = 0
        self.frames_asked = 0
        self._tokens = self._reconstructions = torch.empty(0)
        self._reset_storage()

    def invalidate(self) -> None:
        """Forgets everything and frees its memory. Call it when slots of the store hold other frames."""
        self._reset_storage()

    def tokens(self, slots: np.ndarray) -> Tensor:
        """Tokens `(*slots.shape, 16)` int64 of the frames in `slots`, on the models' device."""
        self._forget_the_old()
        self.frames_asked += slots.size
        if not self.enabled:
            return self._encode(slots.reshape(-1)).unflatten(0, slots.shape)
        missing = np.unique(slots[~self._has_tokens[slots]])
        if len(missing):
            self._make_tokens_storage()
            self._tokens[self._index(missing)] = self._encode(missing).to(self._tokens.dtype)
            self._has_tokens[missing] = True
        return self._tokens[self._index(slots)].long()

    def reconstructions(self, slots: np.ndarray) -> Tensor:
        """Decoded frames `(*slots.shape, 3, size, size)` float32 in [0, 1], as the policy sees them."""
        self._forget_the_old()
        if not self._reconstruction_rows:
            tokens = self.tokens(slots.reshape(-1))
            return self._decode(tokens).unflatten(0, slots.shape)
        needed, where = np.unique(slots, return_inverse=True)
        missing = needed[self._row_of[needed] < 0]
        room = missing[: self._reconstruction_rows - self._rows_used]
        if len(room):
            self._keep_reconstructions(room)
        rows = self._row_of[needed]
        if (rows >= 0).all():
            return self._reconstructions[self._index(rows[where].reshape(slots.shape))]
        frames = self._new_frames(len(needed))
        kept, lost = np.nonzero(rows >= 0)[0], np.nonzero(rows < 0)[0]
        if len(kept):
            frames[self._index(kept)] = self._reconstructions[self._index(rows[kept])]
        frames[self._index(lost)] = self._decode(self.tokens(needed[lost]))
        return frames[self._index(where.reshape(slots.shape))]

    def _keep_reconstructions(self, slots: np.ndarray) -> None:
        if self._reconstructions.shape[0] == 0:
            self._reconstructions = self._new_frames(self._reconstruction_rows)
        rows = np.arange(self._rows_used, self._rows_used + len(slots))
        self._reconstructions[self._index(rows)] = self._decode(self.tokens(slots))
        self._row_of[slots] = rows
        self._rows_used += len(slots)

    def _encode(self, slots: np.ndarray) -> Tensor:
        self.frames_encoded += len(slots)
        parts = self._index(slots).split(FRAMES_TOGETHER)
        return torch.cat([self.coder.tokens_of(self.store.gather_frames(part)) for part in parts])

    def _decode(self, tokens: Tensor) -> Tensor:
        self.frames_decoded += len(tokens)
        return self.coder.frames_of(tokens)

    def _index(self, numbers: np.ndarray) -> Tensor:
        return on_device(np.ascontiguousarray(numbers), self.store.model_device)

    def _make_tokens_storage(self) -> None:
        if self._tokens.shape[0] == 0:
            shape = (self.store.capacity + 1, self.tokenizer.config.tokens_per_frame)
            self._tokens = torch.zeros(shape, dtype=torch.int32, device=self.store.model_device)

    def _forget_the_old(self) -> None:
        if self._version != self.tokenizer.version:
            self._reset_storage()

    def _reset_storage(self) -> None:
        self._version = self.tokenizer.version
        rows = self.store.capacity + 1
        self._has_tokens = np.zeros(rows, bool)
        self._row_of = np.full(rows, -1, np.int64)
        self._rows_used = 0
        # No rows: the memory is free while the tokenizer trains.
        device = self.store.model_device
        self._tokens = torch.empty((0, self.tokenizer.config.tokens_per_frame), device=device)
        self._reconstructions = self._new_frames(0)

    def _new_frames(self, count: int) -> Tensor:
        shape = (count, *self._frame_shape)
        return torch.empty(shape, dtype=torch.float32, device=self.store.model_device)

"""Frames already decoded, by their tokens: while the tokenizer is frozen the same tokens are the same frame."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iris_fast.models.tokenizer import Tokenizer, in_pieces

MAX_BYTES = 512 * 2**20


class FrameMemo:
    """Decodes tokens, each distinct row at most once for a version of the weights, while there is room.

    A rollout of a game with few states meets the same frames again and again, and decoding them is most of its
    time. The numbers are those of decoding each anew, since a frame's result does not depend on its batch.
    """

    def __init__(self, tokenizer: Tokenizer, decode: Callable[[Tensor], Tensor] | None = None):
        """`decode`: as `Tokenizer.frames_of`, but a frame must not depend on its batch; None for PyTorch."""
        self.tokenizer = tokenizer
        self._decode = decode or self._decode_in_pieces
        size = tokenizer.config.autoencoder.resolution
        self._shape = (tokenizer.config.autoencoder.out_ch, size, size)
        self._room = max(1, MAX_BYTES // (4 * self._shape[0] * size * size))
        self._rows: dict[bytes, int] = {}
        self._frames: list[Tensor] = []
        self._version = tokenizer.version
        self.hits = 0
        self.misses = 0

    def bring_up_to_date(self) -> None:
        """Forgets frames of other weights than those of now."""
        if self._version != self.tokenizer.version:
            self.forget()
        self._version = self.tokenizer.version

    def forget(self) -> None:
        self._rows.clear()
        self._frames.clear()

    def _decode_in_pieces(self, tokens: Tensor) -> Tensor:
        return in_pieces(self.tokenizer.frames_of, tokens, pad=True)

    def frames_of(self, tokens: Tensor) -> Tensor:
        """Frames `(batch, 3, size, size)` float32 in [0, 1] of tokens `(batch, 16)` on the CPU."""
        keys = [row.tobytes() for row in tokens.numpy()]
        missing = {key: place for place, key in enumerate(keys) if key not in self._rows}
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        if missing:
            if len(self._rows) + len(missing) > self._room:
                return self._decode(tokens)
            decoded = self._decode(tokens[list(missing.values())])
            for key, frame in zip(missing, decoded, strict=True):
                self._frames.append(frame.clone())  # a view would keep its whole padded piece in memory
                self._rows[key] = (
                    len(self._frames) - 1
                )  # last: whatever interrupts this, a key has its own frame
        return torch.stack([self._frames[self._rows[key]] for key in keys])

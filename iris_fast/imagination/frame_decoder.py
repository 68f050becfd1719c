"""Decodes frames for the CUDA-graph engine: with the tokenizer's decoder, or a copy of it in bfloat16."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from iris_fast.models.tokenizer import Tokenizer

Module = TypeVar("Module", bound=nn.Module)


class FrameDecoder:
    """Decodes tokens as `Tokenizer.frames_of` does, in `dtype`, channels last.

    In float32 it uses the tokenizer's decoder. Otherwise convolutions have copies of their weights, updated in place
    by `refresh`, and GroupNorms keep float32 weights, because their kernel computes in float32.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: torch.dtype):
        self.tokenizer = tokenizer
        self.dtype = dtype
        self._copies: list[tuple[Tensor, Tensor]] = []
        if dtype == torch.float32:
            return
        self._from_codebook = self._copied(tokenizer.post_quant_conv)
        self._decoder = self._copied(tokenizer.decoder)
        self.refresh()

    def _copied(self, module: Module) -> Module:
        """A copy of the module with unfilled parameters, those of convolutions in our dtype."""
        ours: dict[int, Any] = {}
        for part in module.modules():
            for theirs in part.parameters(recurse=False):
                dtype = self.dtype if isinstance(part, nn.Conv2d) else theirs.dtype
                copied = nn.Parameter(torch.empty_like(theirs, dtype=dtype), requires_grad=False)
                ours[id(theirs)] = copied
                self._copies.append((copied, theirs.detach()))
        return copy.deepcopy(module, ours)

    @torch.no_grad()
    def refresh(self) -> None:
        """Call it when the tokenizer's weights have changed."""
        for ours, theirs in self._copies:
            ours.copy_(theirs)

    @torch.no_grad()
    def frames_of(self, tokens: Tensor) -> Tensor:
        """Frames `(batch, 3, size, size)` float32 clamped to [0, 1] of tokens `(batch, 16)`."""
        if self.dtype == torch.float32:
            return self.tokenizer.frames_of(tokens)
        side = self.tokenizer.config.autoencoder.latent_resolution
        codes = self.tokenizer.embedding(tokens).to(self.dtype)
        latents = codes.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return ((self._decoder(self._from_codebook(latents)).float() + 1) / 2).clamp(0, 1)

"""Frames of tokens for the CUDA-graph engine: the tokenizer's own decoder, or a copy of it in bfloat16."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from iris_fast.models.tokenizer import Tokenizer


class FrameDecoder:
    """Decodes tokens as `Tokenizer.frames_of` does, in `dtype`, channels last.

    In float32 it is the tokenizer's; otherwise convolutions have copies of their weights, which `refresh` brings up
    to date in place, and GroupNorms keep theirs in float32 (their kernel computes in it).
    """

    def __init__(self, tokenizer: Tokenizer, dtype: torch.dtype):
        self.tokenizer = tokenizer
        self.dtype = dtype
        self._copies: list[tuple[Tensor, Tensor]] = []
        if dtype == torch.float32:
            return
        self._from_codebook = copy.deepcopy(tokenizer.post_quant_conv).requires_grad_(False)
        self._decoder = copy.deepcopy(tokenizer.decoder).requires_grad_(False)
        for ours, theirs in (
            (self._from_codebook, tokenizer.post_quant_conv),
            (self._decoder, tokenizer.decoder),
        ):
            for module in ours.modules():
                if isinstance(module, nn.Conv2d):
                    for name, parameter in list(module.named_parameters(recurse=False)):
                        setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
            self._copies += [
                (a, b.detach()) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
            ]

    @torch.no_grad()
    def refresh(self) -> None:
        """To be called when the tokenizer's weights have changed."""
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

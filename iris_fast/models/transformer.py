"""The pre-LayerNorm Transformer of the world model, with a static key-value cache (docs/iris.md, part 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu_training


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the Transformer; key names are the public implementation's."""

    tokens_per_block: int = 17
    max_blocks: int = 20
    attention: Literal["causal", "block_causal"] = "causal"
    num_layers: int = 10
    num_heads: int = 4
    embed_dim: int = 256
    embed_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    attn_pdrop: float = 0.1

    @property
    def max_tokens(self) -> int:
        return self.tokens_per_block * self.max_blocks


def attention_mask(config: TransformerConfig, device: torch.device | None = None) -> Tensor:
    """`(max_tokens, max_tokens)` bool: which positions (columns) each position (row) may see."""
    position = torch.arange(config.max_tokens, device=device)
    causal = position[:, None] >= position[None, :]
    if config.attention == "causal":
        return causal
    block = position // config.tokens_per_block
    return causal | (block[:, None] == block[None, :])


class KVCache:
    """Keys and values of every layer for `batch` sequences, in one preallocated tensor.

    `storage`: `(layers, 2, batch, heads, max_tokens, head_dim)`; `length`: number of tokens held, equal in all rows.
    """

    def __init__(self, config: TransformerConfig, batch: int, device: torch.device, dtype: torch.dtype):
        head_dim = config.embed_dim // config.num_heads
        shape = (config.num_layers, 2, batch, config.num_heads, config.max_tokens, head_dim)
        self.storage = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    @property
    def max_tokens(self) -> int:
        return self.storage.shape[4]

    def reset(self) -> None:
        self.length = 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Appends `(batch, heads, new, head_dim)` to the tokens held; returns all keys and values of the layer."""
        stop = self.length + key.shape[2]
        if stop > self.max_tokens:
            raise ValueError(f"the cache holds {self.max_tokens} tokens; {stop} were asked of it")
        self.storage[layer, 0, :, :, self.length : stop] = key
        self.storage[layer, 1, :, :, self.length : stop] = value
        return self.storage[layer, 0, :, :, :stop], self.storage[layer, 1, :, :, :stop]

    def advance(self, count: int) -> None:
        self.length += count


class SelfAttention(nn.Module):
    """Multi-head causal self-attention, with dropout on its weights and its output."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.key = nn.Linear(config.embed_dim, config.embed_dim)
        self.query = nn.Linear(config.embed_dim, config.embed_dim)
        self.value = nn.Linear(config.embed_dim, config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None, layer: int) -> Tensor:
        dropout, heads = (self.config.attn_pdrop if self.training else 0.0), self.config.num_heads
        query, key, value = (linear(x) for linear in (self.query, self.key, self.value))
        if cache is None and mask is None and cpu_training.takes(query, heads):
            attended = cpu_training.causal_attention(query, key, value, heads, dropout)
        else:
            attended = self._attended(query, key, value, mask, cache, layer, dropout)
        return cpu_training.dropout(self.proj(attended), self.config.resid_pdrop, self.training)

    def _attended(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
        dropout: float,
    ) -> Tensor:
        """Attention by PyTorch of `(batch, time, embed_dim)`."""
        query, key, value = (
            tensor.unflatten(2, (self.config.num_heads, -1)).transpose(1, 2) for tensor in (query, key, value)
        )  # each (batch, heads, time, head_dim)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        is_causal = mask is None and query.shape[2] > 1
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
        )
        return attended.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Attention and an exact-GELU MLP, each after a LayerNorm and added to its input."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.ln1 = nn.LayerNorm(config.embed_dim)
        self.ln2 = nn.LayerNorm(config.embed_dim)
        self.attn = SelfAttention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.embed_dim, 4 * config.embed_dim),
            nn.GELU(),
            nn.Linear(4 * config.embed_dim, config.embed_dim),
            cpu_training.Dropout(config.resid_pdrop),
        )

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None, layer: int) -> Tensor:
        x = x + self.attn(cpu_training.for_products(self.ln1(x)), mask, cache, layer)
        return x + self.mlp(self.ln2(x))


class Transformer(nn.Module):
    """Embeddings `(batch, time, embed_dim)` in, features of the same shape out."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.drop = cpu_training.Dropout(config.embed_pdrop)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.embed_dim)

    def forward(self, embeddings: Tensor, cache: KVCache | None = None) -> Tensor:
        """Features of the new tokens; with a cache, the new tokens follow those it holds and are appended to it.

        Raises ValueError if the cache would hold more than `max_tokens` tokens.
        """
        past = cache.length if cache is not None else 0
        mask = self._mask(past, embeddings.shape[1], embeddings.device)
        x = self.drop(embeddings)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, cache, layer)
        if cache is not None:
            cache.advance(embeddings.shape[1])
        return self.ln_f(x)

    def _mask(self, past: int, new: int, device: torch.device) -> Tensor | None:
        """None if no mask is needed: plain causal attention from an empty cache, or a single new token."""
        if new == 1 or (past == 0 and self.config.attention == "causal"):
            return None
        return attention_mask(self.config, device)[past : past + new, : past + new]

"""A small GPT that generates with a static key-value cache: each step computes only its new token.

`python examples/gpt_generate.py` generates with the cache and without it, from the same weights (random ones) and
seed, compares the tokens and prints the seconds of both. It needs PyTorch and `iris_fast.kernels`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_fast.kernels import cached_attention, sample_categorical


@dataclass(frozen=True)
class GPTConfig:
    """Sizes; `num_kv_heads` below `num_heads` groups query heads."""

    vocabulary: int = 512
    max_tokens: int = 340
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    embed_dim: int = 256


class Cache:
    """Keys and values of every layer, `(layers, 2, batch, kv_heads, max_tokens, head_dim)`, and their lengths.

    `lengths`: `(batch,)` tokens held, on the device, so that no step waits for the host.
    """

    def __init__(self, config: GPTConfig, batch: int, like: Tensor):
        head_dim = config.embed_dim // config.num_heads
        shape = (config.num_layers, 2, batch, config.num_kv_heads, config.max_tokens, head_dim)
        self.storage = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=like.device)


class Attention(nn.Module):
    """Causal self-attention with grouped query heads."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.head_dim = config.embed_dim // config.num_heads
        self.heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self.input = nn.Linear(config.embed_dim, sum(self.heads) * self.head_dim)
        self.output = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, cache: Cache | None, layer: int) -> Tensor:
        heads = (
            self.input(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
        )  # (batch, heads, new, head_dim)
        query, key, value = heads.split(self.heads, dim=1)
        if cache is None:
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        else:
            attended = cached_attention(query, key, value, *cache.storage[layer], cache.lengths)
        return self.output(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP, each after a LayerNorm and added to its input."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        dim = config.embed_dim
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.attention = Attention(config)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.attention(self.norms[0](x), cache, layer)
        return x + self.mlp(self.norms[1](x))


class GPT(nn.Module):
    """Tokens `(batch, new)` in, logits `(batch, new, vocabulary)` out."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocabulary, config.embed_dim)
        self.position = nn.Embedding(config.max_tokens, config.embed_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.embed_dim)
        self.head = nn.Linear(config.embed_dim, config.vocabulary)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        position = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        if cache is not None:
            position = position + cache.lengths[:, None]
        x = self.token(tokens) + self.position(position)
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer)
        if cache is not None:
            cache.lengths += tokens.shape[1]  # once, after the last layer has read them
        return self.head(self.norm(x))


@torch.no_grad()
def generate(model: GPT, prompt: Tensor, count: int, seed: int, *, use_cache: bool) -> Tensor:
    """`count` tokens drawn after `prompt` `(batch, tokens)`: `(batch, count)`.

    Draws are addressed by (seed; row, position), so both ways draw the same numbers.
    """
    if prompt.shape[1] + count > model.config.max_tokens:
        raise ValueError(
            f"the model has {model.config.max_tokens} positions: {prompt.shape[1]} + {count} are more"
        )
    cache = Cache(model.config, len(prompt), model.norm.weight) if use_cache else None
    tokens = prompt
    for step in range(count):
        seen = tokens if cache is None or step == 0 else tokens[:, -1:]
        logits = model(seen, cache)[:, -1]
        drawn = sample_categorical(logits, seed=seed, position=step, purpose=0)
        tokens = torch.cat([tokens, drawn[:, None]], dim=1)
    return tokens[:, prompt.shape[1] :]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4, help="sequences")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to generate")
    parser.add_argument("--seed", type=int, default=0, help="of weights, prompt and draws")
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT(GPTConfig()).to(device).eval()
    prompt = torch.randint(model.config.vocabulary, (arguments.batch, 16), device=device)
    generated = {}
    for name, use_cache in (("without a cache", False), ("with a cache", True)):
        began = time.perf_counter()
        generated[use_cache] = generate(
            model, prompt, arguments.tokens, arguments.seed, use_cache=use_cache
        ).cpu()
        print(f"{name}: {time.perf_counter() - began:.2f} s")
    same = torch.equal(generated[True], generated[False])
    print("the same tokens" if same else "the tokens differ")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""One call of every public operation, on a device: what tests of all of them have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iris_fast.kernels import (
    cached_attention,
    ema_update,
    group_norm_swish,
    lambda_returns,
    layer_norm_attention,
    layer_norm_linear,
    layer_norm_mlp,
    linear_sample,
    philox_uniform,
    sample_categorical,
    token_embedding,
    vq_lookup,
    vq_statistics,
)

Call = tuple[Callable[..., Any], tuple[Tensor, ...]]
"""A function of tensors alone, and those."""


def attend_fp8(query: Tensor, key: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return attend(query, key, *others, key_scale=0.05, value_scale=0.1)


def attend(
    query: Tensor, key: Tensor, key_cache: Tensor, value_cache: Tensor, lengths: Tensor, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The output and the caches after it.

    Two caches and not views of one: TorchInductor loses a view's offset where shapes are dynamic.
    """
    key_cache, value_cache = key_cache.clone(), value_cache.clone()
    attended = cached_attention(query, key, key * 2, key_cache, value_cache, lengths, **options)
    return attended, key_cache.float(), value_cache.float()


def attend_whole(
    parts: Tensor,
    qkv: Tensor,
    proj: Tensor,
    gain: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`layer_norm_attention` and the caches after it."""
    key_cache, value_cache = key_cache.clone(), value_cache.clone()
    result = layer_norm_attention(
        parts, qkv, None, proj, None, key_cache, value_cache, lengths, norm_weight=gain
    )
    return result, key_cache, value_cache


def moved_codebook(vectors: Tensor, codebook: Tensor) -> Tensor:
    """A codebook after one look-up and one step of its moving average."""
    found = vq_lookup(vectors, codebook, statistics=True)
    assert found.counts is not None and found.sums is not None
    moved, size, average = codebook.clone(), torch.ones_like(found.counts), codebook.clone()
    ema_update(moved, size, average, found.counts, found.sums)
    return moved


def make_calls(device: str) -> dict[str, Call]:
    """Calls by name; their inputs are the same numbers on every device."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator).to(device)

    def fp8(tensor: Tensor) -> Tensor:
        return (tensor * 20).to(torch.float8_e4m3fn)

    seed, position = integers(99), integers(9, 6)
    address: dict[str, Any] = {"seed": 7, "position": 3, "purpose": 1}
    attention = (normal(3, 4, 2, 16), normal(3, 2, 2, 16))
    caches, lengths = (normal(3, 2, 24, 16), normal(3, 2, 24, 16)), integers(20, 3)
    x, weight, ones = normal(6, 8), normal(12, 8), 1 + normal(8).abs()
    table, places, more = normal(10, 8), normal(9, 8), normal(3, 8)
    return {
        "vq_lookup": (partial(vq_lookup, commitment=True), (normal(4, 5, 8), normal(16, 8))),
        "vq_lookup_cosine": (partial(vq_lookup, distance="cosine", reduction="rows"), (x, weight)),
        "vq_statistics": (partial(vq_statistics, num_codes=5), (x, integers(5, 6))),
        "ema_update": (moved_codebook, (normal(40, 8), normal(4, 8))),
        "cached_attention": (attend, (*attention, *caches, lengths)),
        "cached_attention_blocks": (
            partial(attend, causal="block_causal", tokens_per_block=3, num_splits=2),
            (*attention, *caches, lengths),
        ),
        "cached_attention_fp8": (attend_fp8, (*attention, *map(fp8, caches), lengths)),
        "sample_categorical": (partial(sample_categorical, **address), (2 * normal(6, 30),)),
        "sample_categorical_truncated": (
            lambda logits, seed, position: sample_categorical(
                logits, seed=seed, position=position, purpose=0, top_k=9, top_p=0.8, return_info=True
            ),
            (2 * normal(6, 30), seed, position),
        ),
        "linear_sample": (partial(linear_sample, **address), (x, weight, normal(12))),
        "linear_sample_info": (partial(linear_sample, return_info=True, **address), (x, weight)),
        "philox_uniform": (lambda seed, row: philox_uniform(seed, row, 1, 2), (seed, integers(99, 5))),
        "layer_norm_linear": (
            lambda x, weight, gain, residual: layer_norm_linear(
                x, weight, norm_weight=gain, activation="gelu", residual=residual
            ),
            (x, weight, ones, normal(6, 12)),
        ),
        "layer_norm_attention": (
            attend_whole,
            (normal(2, 3, 8), normal(96, 8), normal(8, 32), ones, *caches, lengths),
        ),
        "layer_norm_mlp": (
            lambda parts, first, last, gain: layer_norm_mlp(
                parts, first, None, last, None, norm_weight=gain, slice_width=16
            ),
            (normal(2, 6, 8), normal(40, 8), normal(8, 40), ones),
        ),
        "group_norm_swish": (
            lambda x, weight, bias: group_norm_swish(x, 4, weight, bias),
            (normal(2, 8, 5, 5).contiguous(memory_format=torch.channels_last), ones, normal(8)),
        ),
        "token_embedding": (
            lambda tokens, table, places, more: token_embedding(tokens, table, places, more_table=more),
            (integers(13, 4, 7), table, places, more),
        ),
        "lambda_returns": (
            partial(lambda_returns, gamma=0.99, lambda_=0.9),
            (normal(3, 9), normal(3, 9), integers(2, 3, 9)),
        ),
    }


def flat(result: Any) -> list[Tensor]:
    """The tensors of a result, None left out."""
    parts = [result] if isinstance(result, Tensor) else list(result)
    return [part for part in parts if part is not None]

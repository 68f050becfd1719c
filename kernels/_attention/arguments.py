"""Argument checks of attention over a KV cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.arguments import check_range

FP8 = torch.float8_e4m3fn
MAX_HEAD_DIM = 256
Arguments = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, float, "Tensor | None", "Tensor | None"
]


def checked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor | int,
    causal: str,
    tokens_per_block: int,
    scale: float | None,
    key_scale: Tensor | float | None,
    value_scale: Tensor | float | None,
) -> Arguments:
    """The operator's arguments, checked: lengths as a tensor, tokens_per_block 1 for causal, scales (kv_heads,)."""
    _check_shapes(query, key, value, key_cache, value_cache)
    _check_types(query, key, value, key_cache, value_cache)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value, key_cache, value_cache)):
        raise RuntimeError(
            "cached_attention has no gradient: call it under torch.no_grad(), or detach its inputs"
        )
    if causal not in ("causal", "block_causal"):
        raise ValueError(f"causal must be 'causal' or 'block_causal', got {causal!r}")
    if tokens_per_block < 1:
        raise ValueError(f"tokens_per_block must be positive, got {tokens_per_block}")
    scale = checked_scale(scale, query.shape[3])
    if key_cache.dtype != FP8 and not (key_scale is None and value_scale is None):
        raise ValueError(f"key_scale and value_scale are for float8_e4m3fn caches, not {key_cache.dtype}")
    kv_heads, max_tokens = key_cache.shape[1:3]
    fp8 = key_cache.dtype == FP8
    return (
        query,
        key,
        value,
        key_cache,
        value_cache,
        checked_lengths(lengths, query.shape[0], query.shape[2], max_tokens, query.device),
        tokens_per_block if causal == "block_causal" else 1,
        scale,
        _scale("key_scale", key_scale, kv_heads, query.device) if fp8 else None,
        _scale("value_scale", value_scale, kv_heads, query.device) if fp8 else None,
    )


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (query, key, value, key_cache, value_cache)]
    if any(len(shape) != 4 for shape in shapes):
        raise ValueError(f"query, key, value and caches must have four dimensions, got shapes {shapes}")
    batch, query_heads, new, head_dim = shapes[0]
    kv_heads, max_tokens = shapes[3][1:3]
    if not shapes[1] == shapes[2] == (batch, kv_heads, new, head_dim):
        raise ValueError(
            f"key and value must be (batch, kv_heads, new, head_dim), here {(batch, kv_heads, new, head_dim)}, "
            f"got {shapes[1]} and {shapes[2]}"
        )
    if not shapes[3] == shapes[4] == (batch, kv_heads, max_tokens, head_dim):
        raise ValueError(
            "key_cache and value_cache must have one shape (batch, kv_heads, max_tokens, head_dim) with the batch "
            f"and head_dim of query {shapes[0]}, got {shapes[3]} and {shapes[4]}"
        )
    if kv_heads == 0 or query_heads % kv_heads:
        raise ValueError(
            f"the heads of query {shapes[0]} must be a multiple of those of the cache {shapes[3]}"
        )
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"head_dim must be from 1 to {MAX_HEAD_DIM}, got query of shape {shapes[0]}")


def _check_types(query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor) -> None:
    tensors = {"key": key, "value": value, "key_cache": key_cache, "value_cache": value_cache}
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"query must be float16, bfloat16, float32 or float64, got {query.dtype}")
    if not key.dtype == value.dtype == query.dtype:
        raise TypeError(
            f"key and value must have the dtype of query, {query.dtype}, got {key.dtype}, {value.dtype}"
        )
    if key_cache.dtype != value_cache.dtype or key_cache.dtype not in (query.dtype, FP8):
        raise TypeError(
            f"key_cache and value_cache must both be {query.dtype} as query, or both {FP8}, "
            f"got {key_cache.dtype} and {value_cache.dtype}"
        )
    for name, tensor in tensors.items():
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on the device of query, {query.device}, got {tensor.device}")
    check_writable("key_cache", key_cache)
    check_writable("value_cache", value_cache)


def check_writable(name: str, cache: Tensor) -> None:
    """Raises ValueError for a cache that a kernel cannot write in place."""
    written_twice = any(n > 1 and stride == 0 for n, stride in zip(cache.shape, cache.stride(), strict=True))
    if written_twice or (cache.shape[3] > 1 and cache.stride(3) != 1):
        raise ValueError(
            f"{name} must not be expanded and its last dimension must be contiguous, got strides {cache.stride()}"
        )


def checked_lengths(
    lengths: Tensor | int, batch: int, new: int, max_tokens: int, device: torch.device
) -> Tensor:
    """The tokens held as a tensor `(batch,)`; ValueError or TypeError for anything else."""
    if not isinstance(lengths, Tensor):
        if not 0 <= lengths <= max_tokens - new:
            raise ValueError(
                f"the cache has room for {max_tokens} tokens, lengths {lengths} and {new} new were asked"
            )
        # Not torch.tensor, whose copy from the host a CUDA graph cannot capture.
        return torch.full((batch,), lengths, dtype=torch.int32, device=device)
    if lengths.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"lengths must be an int or an int32 or int64 tensor, got {lengths.dtype}")
    if lengths.shape != (batch,) or lengths.device != device:
        raise ValueError(
            f"lengths must be (batch,), here {(batch,)}, on {device}, "
            f"got {tuple(lengths.shape)} on {lengths.device}"
        )
    return lengths


def checked_scale(scale: float | None, head_dim: int) -> float:
    """The scale of the scores, head_dim ** -0.5 by default; ValueError if it is not finite."""
    if scale is None:
        return float(head_dim**-0.5)
    check_range("scale", scale, -math.inf)
    return scale


def _scale(name: str, given: Tensor | float | None, kv_heads: int, device: torch.device) -> Tensor:
    if not isinstance(given, Tensor):
        if given is not None:
            check_range(name, given, -math.inf)
        return torch.full((kv_heads,), 1.0 if given is None else given, dtype=torch.float32, device=device)
    if given.shape not in ((), (1,), (kv_heads,)) or given.device != device:
        raise ValueError(
            f"{name} must be a float or a tensor () or (kv_heads,), here {(kv_heads,)}, on {device}, "
            f"got {tuple(given.shape)} on {given.device}"
        )
    return given.to(torch.float32).expand(kv_heads).contiguous()

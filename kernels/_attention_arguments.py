"""What `cached_attention` takes and refuses, and the same in plain PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._arguments import check_range

FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0
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
    """The tokens held as a tensor `(batch,)`; ValueError or TypeError where they are not that."""
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
    """The scale of the scores, head_dim ** -0.5 by default; ValueError where it is not finite."""
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


def append_and_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    tokens_per_block: int,
    scale: float,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
) -> Tensor:
    """The operation on checked arguments in plain PyTorch, without a look at the lengths from the host.

    (batch, new, query_heads, head_dim), contiguous.
    """
    batch, query_heads, new, head_dim = query.shape
    max_tokens = key_cache.shape[2]
    if max_tokens == 0:
        return query.new_full((batch, new, query_heads, head_dim), float("nan"))
    lengths = lengths.to(torch.int64)
    fits = (lengths >= 0) & (lengths <= max_tokens - new)
    position = torch.where(fits, lengths, 0)[:, None] + torch.arange(new, device=query.device)
    _append(key, key_cache, position, fits, key_scale)
    _append(value, value_cache, position, fits, value_scale)
    slot = torch.arange(max_tokens, device=query.device)
    held = (slot < (torch.where(fits, lengths, 0) + new)[:, None])[:, None, :, None]
    # What lies beyond the tokens held may be NaN, which no mask on the scores would stop.
    keys = torch.where(held, _in_dtype(key_cache, key_scale, query.dtype), 0)
    values = torch.where(held, _in_dtype(value_cache, value_scale, query.dtype), 0)
    horizon = (position // tokens_per_block + 1) * tokens_per_block
    visible = (slot < horizon[:, :, None])[:, None] & held.transpose(2, 3)
    attended = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=visible, scale=scale, enable_gqa=query_heads != key.shape[1]
    )
    attended = torch.where(fits[:, None, None, None], attended, float("nan"))
    return _nan_of_no_number(query, attended).transpose(1, 2).contiguous()


def _nan_of_no_number(query: Tensor, attended: Tensor) -> Tensor:
    """`attended` with NaN in the rows whose query is not finite: PyTorch's attention for a CPU gives 0 in some."""
    return torch.where(query.isfinite().all(dim=-1, keepdim=True), attended, float("nan"))


def append_and_attend_on_host(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    tokens_per_block: int,
    scale: float,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
) -> Tensor:
    """`append_and_attend` for lengths that can be looked at: over the tokens that are there, not the whole room."""
    new, max_tokens = query.shape[2], key_cache.shape[2]
    held = lengths.tolist()
    stop = max([length for length in held if 0 <= length <= max_tokens - new], default=0) + new
    if min(held) != max(held) or min(held) != stop - new or stop > max_tokens:
        fits = (lengths >= 0) & (lengths <= max_tokens - new)
        return append_and_attend(
            *(
                query,
                key,
                value,
                key_cache[:, :, :stop],
                value_cache[:, :, :stop],
                torch.where(fits, lengths, -1),
            ),
            tokens_per_block=tokens_per_block,
            scale=scale,
            key_scale=key_scale,
            value_scale=value_scale,
        )
    keys, values = key_cache[:, :, :stop], value_cache[:, :, :stop]
    keys[:, :, stop - new :] = key if key_scale is None else _as_fp8(key, key_scale)
    values[:, :, stop - new :] = value if value_scale is None else _as_fp8(value, value_scale)
    keys, values = _in_dtype(keys, key_scale, query.dtype), _in_dtype(values, value_scale, query.dtype)
    # A mask for one new token too: without one PyTorch's attention for a CPU takes a row of NaN scores for 0.
    slot = torch.arange(stop, device=query.device)
    visible = slot < ((slot[stop - new :, None] // tokens_per_block) + 1) * tokens_per_block
    grouped = query.shape[1] != key.shape[1]
    attended = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=visible, scale=scale, enable_gqa=grouped
    )
    return _nan_of_no_number(query, attended).transpose(1, 2).contiguous()


def _as_fp8(new: Tensor, scale: Tensor) -> Tensor:
    scaled = new.to(torch.float32) / scale[:, None, None]
    return scaled.clamp(-FP8_LARGEST, FP8_LARGEST).to(FP8)


def _append(new: Tensor, cache: Tensor, position: Tensor, fits: Tensor, scale: Tensor | None) -> None:
    """Writes `new` (batch, kv_heads, new, head_dim) at `position` (batch, new), where it fits."""
    if scale is not None:
        scaled = new.to(torch.float32) / scale[:, None, None]
        # By way of bytes, which every device can index.
        new, cache = (
            scaled.clamp(-FP8_LARGEST, FP8_LARGEST).to(FP8).view(torch.uint8),
            cache.view(torch.uint8),
        )
    position = position.clamp(max=cache.shape[2] - 1)
    row = torch.arange(len(position), device=position.device)[:, None]
    there = cache[row, :, position]  # (batch, new, kv_heads, head_dim): kept where the new does not fit
    cache[row, :, position] = torch.where(fits[:, None, None, None], new.transpose(1, 2), there)


def _in_dtype(cache: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    if scale is None:
        return cache
    return (cache.to(torch.float32) * scale[:, None, None]).to(dtype)

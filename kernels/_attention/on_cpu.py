"""Attention over a KV cache with the append in plain PyTorch: `cached_attention` outside a GPU, and its reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import FP8

FP8_LARGEST = 448.0


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
    """The operation on checked arguments in plain PyTorch, without reading the lengths on the host.

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
    """`append_and_attend` for lengths readable on the host: over the held tokens, not the whole cache."""
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

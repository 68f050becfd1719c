"""What `cached_attention` is timed beside: SDPA, FlexAttention, FlashAttention, FlashInfer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Function
from benchmarks.peers import COMPILED, FLASH_ATTENTION, FLASHINFER, Unavailable, compiled
from iris_fast.kernels.common.spec import Problem

from .table import Comparison


def beside_attention(problem: Problem, compile_it: bool) -> Comparison:
    """With the peers; it is SDPA that is compiled."""
    return Comparison(problem, others=peers(problem.inputs["tensors"], problem.dtype, compile_it))


def append(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, lengths: Tensor) -> Tensor:
    """Writes by index, and gives the mask of what is held then, (batch, 1, 1, room)."""
    row = torch.arange(len(lengths), device=lengths.device)
    key_cache[row, :, lengths] = key[:, :, 0]
    value_cache[row, :, lengths] = value[:, :, 0]
    return (torch.arange(key_cache.shape[2], device=lengths.device) <= lengths[:, None])[:, None, None]


def append_and_attend(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, lengths: Tensor
) -> Tensor:
    """What is written without a kernel: an append by index, and SDPA over the whole room under a mask."""
    mask = append(key, value, key_cache, value_cache, lengths)
    return F.scaled_dot_product_attention(query, key_cache, value_cache, attn_mask=mask)


def peers(
    tensors: tuple[Tensor, ...], dtype: torch.dtype, compile_it: bool
) -> dict[str, Callable[[], Function]]:
    """What makes the other sides."""

    def absent(reason: str) -> Callable[[], Function]:
        def make() -> Function:
            raise Unavailable(reason)

        return make

    def compiled_attention() -> Function:
        whole = compiled(append_and_attend, tensors[0].device)
        return lambda: whole(*tensors)

    if tensors[3].dtype == torch.float8_e4m3fn:
        return {"others": absent("no e4m3 cache with the append")}
    few, gpu = absent("compiled for some sizes alone"), absent("runs on GPUs alone")
    cuda = tensors[0].is_cuda
    half = dtype != torch.float32 or not cuda  # on a CPU the peers say themselves why not
    narrow = absent("takes 16-bit numbers alone")
    flex = (lambda: _flex_attention(*tensors)) if cuda else gpu
    return {
        "sdpa": lambda: lambda: append_and_attend(*tensors),
        COMPILED: compiled_attention if compile_it else few,
        "flex_attention": flex if compile_it else few,
        "flash_attn": (lambda: _flash_attn(*tensors)) if half else narrow,
        "flashinfer": (lambda: _flashinfer(*tensors)) if half else narrow,
    }


def _flash_attn(*tensors: Tensor) -> Function:
    """FlashAttention, which appends too; it wants tokens before heads."""
    attend = FLASH_ATTENTION.load().flash_attn_with_kvcache
    query, key, value, key_cache, value_cache = (t.transpose(1, 2).contiguous() for t in tensors[:5])

    def side() -> Tensor:
        attended = attend(query, key_cache, value_cache, key, value, cache_seqlens=tensors[5], causal=True)
        return attended.transpose(1, 2)

    return side


def _flex_attention(*tensors: Tensor) -> Function:
    """FlexAttention under a mask by length, its block mask made beforehand and the append by index."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value, key_cache, value_cache, lengths = tensors

    def seen(batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor) -> Tensor:
        return kv_index <= lengths[batch]

    mask = create_block_mask(seen, len(lengths), None, 1, key_cache.shape[2], device=str(query.device))
    attend = torch.compile(flex_attention)

    def side() -> Tensor:
        append(key, value, key_cache, value_cache, lengths)
        return attend(query, key_cache, value_cache, block_mask=mask)

    return side


def _flashinfer(*tensors: Tensor) -> Function:
    """FlashInfer's batch decoding with one page a sequence, planned beforehand, and the append by index."""
    flashinfer = FLASHINFER.load()
    query, key, value, key_cache, value_cache, lengths = tensors
    (batch, heads, _, head_dim), device = query.shape, query.device
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(128 * 2**20, dtype=torch.uint8, device=device), "HND"
    )
    pages = torch.arange(batch + 1, dtype=torch.int32, device=device)
    wrapper.plan(
        *(pages, pages[:-1], lengths + 1, heads, heads, head_dim, key_cache.shape[2]),
        q_data_type=query.dtype,
        kv_data_type=query.dtype,
    )

    def side() -> Tensor:
        append(key, value, key_cache, value_cache, lengths)
        return wrapper.run(query[:, :, 0].contiguous(), (key_cache, value_cache))[:, :, None]

    return side

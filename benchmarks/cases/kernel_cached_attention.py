"""Attention over a KV cache with the append: ours by number of splits, beside PyTorch and other kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compiling import compiled
from benchmarks.peers import FLASH_ATTENTION, FLASHINFER, Unavailable, available
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, measured_machine
from iris_fast.kernels import cached_attention, cached_attention_reference

HEADS, HEAD_DIM = 4, 64  # the paper's
FP8 = torch.float8_e4m3fn
SCALE = 0.02  # of e4m3 caches


@dataclass(frozen=True)
class Size:
    """One decoding step: every sequence holds `length` tokens of `room` and gets one more."""

    batch: int
    length: int
    room: int
    dtype: torch.dtype
    fp8: bool = False
    compiled: bool = False  # whether compiled peers, which take seconds to compile, are timed too

    def counted(self) -> dict[str, Any]:
        """Bytes and operations at the least."""
        cached = 2 * self.batch * HEADS * self.length * HEAD_DIM * (1 if self.fp8 else self.dtype.itemsize)
        new = (
            self.batch
            * HEADS
            * HEAD_DIM
            * (4 * self.dtype.itemsize + 2 * (1 if self.fp8 else self.dtype.itemsize))
        )
        return {
            "batch": self.batch,
            "length": self.length,
            "room": self.room,
            "dtype": str(self.dtype).removeprefix("torch."),
            "cache": "float8_e4m3fn" if self.fp8 else str(self.dtype).removeprefix("torch."),
            "bytes": cached + new,
            "flops": 4 * self.batch * HEADS * (self.length + 1) * HEAD_DIM,
        }


def sizes(cuda: bool, quick: bool) -> list[Size]:
    """A rollout's lengths at several batches, a long cache, then other dtypes."""
    if quick:
        return [Size(2, 40, 64, torch.float32)]
    if not cuda:
        return [Size(batch, 323, 340, torch.float32, compiled=batch == 64) for batch in (1, 16, 64)]
    bf16 = [
        Size(batch, length, 340, torch.bfloat16, compiled=batch in (64, 1024) and length == 339)
        for batch in (1, 16, 64, 256, 1024)
        for length in (17, 339)
    ]
    long = [Size(batch, 2047, 2048, torch.bfloat16, compiled=batch == 16) for batch in (1, 16, 256)]
    other = [Size(batch, 339, 340, torch.float32) for batch in (64, 1024)]
    return bf16 + long + other + [Size(batch, 339, 340, torch.bfloat16, fp8=True) for batch in (64, 1024)]


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


def append_and_multiply(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, lengths: Tensor
) -> Tensor:
    """The same by two products and a softmax, as it is written without SDPA."""
    mask = append(key, value, key_cache, value_cache, lengths)
    scores = query @ key_cache.transpose(2, 3) * HEAD_DIM**-0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value_cache


def inputs(size: Size, device: torch.device) -> tuple[Tensor, ...]:
    """Query, key, value, caches and lengths."""
    generator = torch.Generator(device).manual_seed(0)
    new = torch.randn(3, size.batch, HEADS, 1, HEAD_DIM, device=device, generator=generator).to(size.dtype)
    shape = (2, size.batch, HEADS, size.room, HEAD_DIM)
    caches = torch.randn(shape, device=device, generator=generator, dtype=size.dtype)
    if size.fp8:
        caches = (caches.float() / SCALE).clamp(-448, 448).to(FP8)
    lengths = torch.full((size.batch,), size.length, dtype=torch.int32, device=device)
    return (*new.unbind(), *caches.unbind(), lengths)


def peers(size: Size, tensors: tuple[Tensor, ...]) -> tuple[dict[str, Side], dict[str, str]]:
    """The other sides by name, run once, and why some are not there."""
    if size.fp8:
        return {}, {"others": "no e4m3 cache with the append"}

    def ready(maker: Callable[..., Side]) -> Callable[[], Side]:
        def make() -> Side:
            side = maker(*tensors)
            side()
            return side

        return make

    def not_this_size(reason: str) -> Callable[[], Side]:
        def make() -> Side:
            raise Unavailable(reason)

        return make

    few = not_this_size("compiled for some sizes alone")
    gpu = not_this_size("runs on GPUs alone")
    narrow = not_this_size("takes 16-bit numbers alone")
    cuda = tensors[0].is_cuda
    half = size.dtype != torch.float32 or not cuda  # on a CPU the peers say themselves why not
    return available(
        {
            "pytorch": ready(lambda *t: lambda: append_and_multiply(*t)),
            "sdpa": ready(lambda *t: lambda: append_and_attend(*t)),
            "torch.compile": ready(_compiled) if size.compiled else few,
            "flex_attention": (ready(_flex_attention) if cuda else gpu) if size.compiled else few,
            "flash_attn": ready(_flash_attn) if half else narrow,
            "flashinfer": ready(_flashinfer) if half else narrow,
        }
    )


def _compiled(*tensors: Tensor) -> Side:
    whole = compiled(append_and_attend, tensors[0].device)
    return lambda: whole(*tensors)


def _flash_attn(*tensors: Tensor) -> Side:
    """FlashAttention, which appends too; it wants tokens before heads."""
    attend = FLASH_ATTENTION.load().flash_attn_with_kvcache
    query, key, value, key_cache, value_cache = (t.transpose(1, 2).contiguous() for t in tensors[:5])

    def side() -> Tensor:
        attended = attend(query, key_cache, value_cache, key, value, cache_seqlens=tensors[5], causal=True)
        return attended.transpose(1, 2)

    return side


def _flex_attention(*tensors: Tensor) -> Side:
    """FlexAttention under a mask by length, its block mask made beforehand and the append by index."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value, key_cache, value_cache, lengths = tensors

    def seen(batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor) -> Tensor:
        return kv_index <= lengths[batch]

    mask = create_block_mask(seen, len(lengths), None, 1, key_cache.shape[2], device=str(query.device))
    attend = torch.compile(flex_attention)
    row = torch.arange(len(lengths), device=query.device)

    def side() -> Tensor:
        key_cache[row, :, lengths] = key[:, :, 0]
        value_cache[row, :, lengths] = value[:, :, 0]
        return attend(query, key_cache, value_cache, block_mask=mask)

    return side


def _flashinfer(*tensors: Tensor) -> Side:
    """FlashInfer's batch decoding with one page a sequence, planned beforehand, and the append by index."""
    flashinfer = FLASHINFER.load()
    query, key, value, key_cache, value_cache, lengths = tensors
    batch, device = len(lengths), query.device
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(128 * 2**20, dtype=torch.uint8, device=device), "HND"
    )
    pages = torch.arange(batch + 1, dtype=torch.int32, device=device)
    wrapper.plan(
        *(pages, pages[:-1], lengths + 1, HEADS, HEADS, HEAD_DIM, key_cache.shape[2]),
        q_data_type=query.dtype,
        kv_data_type=query.dtype,
    )
    row = torch.arange(batch, device=device)

    def side() -> Tensor:
        key_cache[row, :, lengths] = key[:, :, 0]
        value_cache[row, :, lengths] = value[:, :, 0]
        return wrapper.run(query[:, :, 0].contiguous(), (key_cache, value_cache))[:, :, None]

    return side


def measure(machine: Machine, size: Size) -> dict[str, Any]:
    """Medians of one size, after all outputs were compared with float32's."""
    tensors = inputs(size, machine.device)
    scales = {"key_scale": SCALE, "value_scale": SCALE} if size.fp8 else {}
    if size.fp8:  # tensors, since a float is moved to the device at each call
        scales = {
            name: torch.full((HEADS,), number, device=machine.device) for name, number in scales.items()
        }
    sides: dict[str, Side] = {"ours": lambda: cached_attention(*tensors, **scales)}
    for splits in (1, 2, 4, 8) if machine.cuda else ():
        sides[f"ours_{splits}_splits"] = lambda splits=splits: cached_attention(  # type: ignore[misc]
            *tensors, num_splits=splits, **scales
        )
    others, absent = peers(size, tensors)
    facts: dict[str, Any] = size.counted() | {"absent": absent}
    if machine.cuda:  # then a share of the copy bandwidth may exceed 1
        cache = torch.cuda.get_device_properties(machine.device).L2_cache_size
        facts["fits_in_l2"] = 2 * tensors[3].nbytes < cache
    caches = [cache.clone() if size.fp8 else cache.float() for cache in tensors[3:5]]
    new = [tensor.float() for tensor in tensors[:3]]
    expected = cached_attention_reference(*new, *caches, tensors[5], **scales)
    tolerance = 1e-5 if size.dtype == torch.float32 else 1e-2
    return compare_and_time(machine, sides | others, expected, tolerance, facts, size.dtype)


@case("kernel_cached_attention", minutes=0.3, default=True)
def kernel_cached_attention(quick: bool) -> dict[str, Any]:
    """A decoding step over a KV cache with its append, by batch, length and dtype: ours and others."""
    machine = measured_machine(quick)
    with torch.no_grad():
        measured = [measure(machine, size) for size in sizes(machine.cuda, quick)]
    return machine.facts() | {"sizes": measured}

"""Attention of new tokens over a static key-value cache, including the append, in one launch.

attended_i = Σ_j softmax_j(scale q_i · k_j) v_j over the visible tokens j: all tokens held before the call, and the
new tokens up to i (causal) or up to the end of i's block (block_causal). The result equals writing the new keys and
values to the cache, then attending to it. (Vaswani et al., "Attention is all
you need", 2017, section 3.2.1; split over the cache as in Dao et al., "Flash-Decoding", 2023.)

query (batch, query_heads, new, head_dim), key and value (batch, kv_heads, new, head_dim), caches (batch, kv_heads,
max_tokens, head_dim), lengths (batch,). Query head h reads kv head h // (query_heads // kv_heads).
Bytes moved, at least: each held key and value once, 2 batch kv_heads length head_dim cached numbers, and 2 batch new
head_dim (query_heads + 2 kv_heads) for the inputs, the outputs and the append. FLOPs: 4 batch query_heads new (length
+ (new + 1) / 2) head_dim.

A kv head's rows (its query heads times the new tokens) share a program, so that the cache is read once. One row uses
multiply-and-reduce, several use matrix products. New tokens come from the inputs: no program reads a cached number
that another writes, and each is written by one program. Grids depend only on shapes, and lengths are read on the
device, so a captured CUDA graph follows the lengths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ._attention.arguments import FP8, checked
from ._attention.configuration import configuration, product_dtype, splits
from ._attention.on_cpu import append_and_attend, append_and_attend_on_host
from ._attention.tiles import append, attend_new_token, attend_row, attend_rows, finite_or_zero
from .common.arguments import with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.spec import Benchmark, Call, Function, Launch, Numbers, OpSpec, Problem, Row, Sizes, dtype_name
from .common.triton import jit, on_its_device, require_triton, tl, triton


@jit(do_not_specialize=["tokens_per_block"])
def _cached_attention_kernel(
    query,  # (batch, kv_heads * group, new, head_dim)
    key,  # (batch, kv_heads, new, head_dim), in the dtype of the query, as `value`
    value,
    key_cache,  # in and out: (batch, kv_heads, max_tokens, head_dim), in the query's dtype or e4m3
    value_cache,
    lengths,  # (batch,) int32 or int64, contiguous: tokens held
    key_scale,  # (kv_heads,) float32, contiguous; read if FP8
    value_scale,
    attended,  # out: (batch, new, kv_heads * group, head_dim) contiguous, or float32 and one for each split
    statistics,  # out, for several splits: maxima and totals (2, NUM_SPLITS, rows) float32
    rows,  # batch * new * kv_heads * group
    kv_heads,
    group,  # query heads a kv head
    new,
    head_dim,
    max_tokens,
    tokens_per_block,  # a token sees its block of so many to the end; 1 is causal
    scale,  # float32: of the scores, times log2(e)
    # Elements from one sequence, head and token to the next; the head dimension is contiguous.
    stride_query_batch,
    stride_query_head,
    stride_query_token,
    stride_key_batch,
    stride_key_head,
    stride_key_token,
    stride_value_batch,
    stride_value_head,
    stride_value_token,
    stride_key_cache_batch,
    stride_key_cache_head,
    stride_key_cache_token,
    stride_value_cache_batch,
    stride_value_cache_head,
    stride_value_cache_token,
    ROWS: tl.constexpr,  # query rows a program: 1, or a power of two from 16
    BLOCK_KEYS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    FP8: tl.constexpr,
    PRODUCT_DTYPE: tl.constexpr,  # of the factors of matrix products
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    sequence = (tl.program_id(0) // kv_heads).to(tl.int64)
    head = (tl.program_id(0) % kv_heads).to(tl.int64)
    row_block = tl.program_id(1)
    split = tl.program_id(2)
    key += sequence * stride_key_batch + head * stride_key_head
    value += sequence * stride_value_batch + head * stride_value_head
    key_cache += sequence * stride_key_cache_batch + head * stride_key_cache_head
    value_cache += sequence * stride_value_cache_batch + head * stride_value_cache_head
    unit_key = tl.load(key_scale + head) if FP8 else 1.0
    unit_value = tl.load(value_scale + head) if FP8 else 1.0

    length = tl.load(lengths + sequence).to(tl.int64)
    fits = (length >= 0) & (length <= max_tokens - new)  # no sum, which could wrap around
    held = tl.where(fits, length, 0).to(tl.int32)
    part = tl.cdiv(tl.cdiv(held, NUM_SPLITS), BLOCK_KEYS) * BLOCK_KEYS
    begin = split * part
    end = tl.minimum(begin + part, held)
    is_last = split == NUM_SPLITS - 1  # of a sequence's programs, the one that the new tokens fall to

    row = row_block * ROWS + tl.arange(0, ROWS)
    row_mask = row < new * group
    token = row // group
    query_head = head * group + row % group
    dim = tl.arange(0, BLOCK_DIM)
    inside = row_mask[:, None] & (dim < head_dim)[None, :]
    query_row = sequence * stride_query_batch + query_head * stride_query_head
    query_row += token.to(tl.int64) * stride_query_token
    queries = tl.load(query + query_row[:, None] + dim[None, :], mask=inside, other=0.0)
    # The first new token that a row may not see, counted among the new ones.
    horizon = ((held + token) // tokens_per_block + 1) * tokens_per_block - held

    element = key_cache.dtype.element_ty
    if ROWS == 1:
        scaled = tl.sum(queries.to(tl.float32), axis=0) * (scale * unit_key)
        maximum, total, mixed = attend_row(
            scaled,
            key_cache,
            value_cache,
            stride_key_cache_token,
            stride_value_cache_token,
            begin,
            end,
            head_dim,
            BLOCK_KEYS,
            BLOCK_DIM,
            STAGES,
        )
        maximum, total, mixed = attend_new_token(
            maximum,
            total,
            mixed,
            scaled,
            key,
            value,
            unit_key,
            unit_value,
            is_last,
            head_dim,
            element,
            FP8,
            BLOCK_DIM,
        )
        maximum = tl.zeros((ROWS,), tl.float32) + maximum
        total = tl.zeros((ROWS,), tl.float32) + total
        mixed = mixed[None, :]
    else:
        maximum = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        mixed = tl.zeros((ROWS, BLOCK_DIM), tl.float32)
        maximum, total, mixed = attend_rows(
            maximum,
            total,
            mixed,
            queries.to(PRODUCT_DTYPE),
            key_cache,
            value_cache,
            stride_key_cache_token,
            stride_value_cache_token,
            begin,
            end,
            tl.zeros((ROWS,), tl.int32) + held,
            scale * unit_key,
            unit_key,
            unit_value,
            head_dim,
            element,
            False,
            PRECISION,
            BLOCK_KEYS,
            BLOCK_DIM,
            STAGES,
        )
        seen = tl.max(tl.where(row_mask, horizon, 0), axis=0)  # by some row of these
        maximum, total, mixed = attend_rows(
            maximum,
            total,
            mixed,
            queries.to(PRODUCT_DTYPE),
            key,
            value,
            stride_key_token,
            stride_value_token,
            0,
            tl.where(is_last, tl.minimum(seen, new), 0),
            horizon,
            scale * unit_key,
            unit_key,
            unit_value,
            head_dim,
            element,
            FP8,
            PRECISION,
            BLOCK_KEYS,
            BLOCK_DIM,
            STAGES,
        )

    # The last split's programs each write their share of the new tokens.
    share = tl.cdiv(new, tl.num_programs(1))
    first = row_block * share
    last = tl.where(fits & is_last, tl.minimum(first + share, new), first)
    append(
        key,
        key_cache,
        stride_key_token,
        stride_key_cache_token,
        first,
        last,
        held,
        unit_key,
        head_dim,
        BLOCK_KEYS if ROWS > 1 else 1,
        BLOCK_DIM,
        FP8,
    )
    append(
        value,
        value_cache,
        stride_value_token,
        stride_value_cache_token,
        first,
        last,
        held,
        unit_value,
        head_dim,
        BLOCK_KEYS if ROWS > 1 else 1,
        BLOCK_DIM,
        FP8,
    )

    mixed = tl.where(fits, mixed * unit_value, float("nan"))
    out_row = (sequence * new + token) * (kv_heads * group) + query_head
    if NUM_SPLITS == 1:
        mixed = mixed / total[:, None]
        pointer = attended + out_row[:, None] * head_dim + dim[None, :]
        tl.store(pointer, mixed.to(attended.dtype.element_ty), mask=inside)
    else:
        out_row += split.to(tl.int64) * rows
        tl.store(attended + out_row[:, None] * head_dim + dim[None, :], mixed, mask=inside)
        tl.store(statistics + out_row, maximum, mask=row_mask)
        tl.store(statistics + tl.cast(NUM_SPLITS, tl.int64) * rows + out_row, total, mask=row_mask)


@jit
def _merge_splits_kernel(
    partial,  # (num_splits, rows, head_dim) float32, contiguous: sums over each split's tokens
    statistics,  # (2, num_splits, rows) float32, contiguous: maxima and totals
    attended,  # out: (rows, head_dim), contiguous
    rows,
    head_dim,
    num_splits,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, BLOCK_SPLITS).to(tl.int64)
    dim = tl.arange(0, BLOCK_DIM)
    present = split < num_splits
    offset = split * rows + row
    total_offset = (num_splits + split) * rows + row
    maximum = tl.load(statistics + offset, mask=present, other=float("-inf"))
    total = tl.load(statistics + total_offset, mask=present, other=0.0)
    inside = present[:, None] & (dim < head_dim)[None, :]
    sums = tl.load(partial + offset[:, None] * head_dim + dim[None, :], mask=inside, other=0.0)
    weight = tl.exp2(maximum - finite_or_zero(tl.max(maximum, axis=0)))
    merged = tl.sum(sums * weight[:, None], axis=0) / tl.sum(total * weight, axis=0)
    tl.store(attended + row * head_dim + dim, merged.to(attended.dtype.element_ty), mask=dim < head_dim)


@on_its_device
def launch_cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    tokens_per_block: int,
    scale: float,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    num_splits: int = 0,
    *,
    block_rows: int | None = None,
    block_keys: int | None = None,
    num_warps: int | None = None,
    num_stages: int | None = None,
    precision: str = "ieee",
) -> Tensor:
    """Launches the kernel; the output is (batch, new, query_heads, head_dim), contiguous.

    `tokens_per_block` is 1 for causal attention, `num_splits` 0 for the default. The keyword arguments replace
    the default configuration; `precision` is that of products of float32 ("ieee", "tf32x3", "tf32").
    """
    tensors = (query, key, value, key_cache, value_cache, lengths)
    require_triton("cached_attention", *tensors)
    if key_cache.dtype == FP8:
        _require_fp8(key_cache)
    query, key, value = (t if t.stride(3) == 1 else t.contiguous() for t in (query, key, value))
    lengths = lengths.contiguous()
    batch, query_heads, new, head_dim = query.shape
    kv_heads, max_tokens = key_cache.shape[1:3]
    attended = query.new_empty((batch, new, query_heads, head_dim))
    if attended.numel() == 0:
        return attended
    group = query_heads // kv_heads
    chosen = configuration(group * new, head_dim, query.element_size(), key_cache.element_size())
    given = {
        "block_rows": block_rows,
        "block_keys": block_keys,
        "num_warps": num_warps,
        "num_stages": num_stages,
    }
    chosen |= {name: number for name, number in given.items() if number is not None}
    row_blocks = triton.cdiv(group * new, chosen["block_rows"])
    programs = batch * kv_heads * row_blocks
    num_splits = num_splits or splits(programs, max_tokens, query.device)
    rows = batch * new * query_heads
    partial, statistics = attended, attended
    if num_splits > 1:
        partial = query.new_empty((num_splits, rows, head_dim), dtype=torch.float32)
        statistics = query.new_empty((2, num_splits, rows), dtype=torch.float32)
    block_dim = max(16, triton.next_power_of_2(head_dim))
    _cached_attention_kernel[(batch * kv_heads, row_blocks, num_splits)](
        *(query, key, value, key_cache, value_cache, lengths),
        key_scale if key_scale is not None else lengths,
        value_scale if value_scale is not None else lengths,
        *(partial, statistics, rows, kv_heads, group, new, head_dim, max_tokens, tokens_per_block),
        scale * math.log2(math.e),
        *(stride for t in (query, key, value, key_cache, value_cache) for stride in t.stride()[:3]),
        ROWS=chosen["block_rows"],
        BLOCK_KEYS=chosen["block_keys"],
        BLOCK_DIM=block_dim,
        NUM_SPLITS=num_splits,
        FP8=key_cache.dtype == FP8,
        PRODUCT_DTYPE=product_dtype(query.dtype),
        PRECISION=precision,
        STAGES=chosen["num_stages"],
        num_warps=chosen["num_warps"],
    )
    if num_splits > 1:
        block_splits = triton.next_power_of_2(num_splits)
        _merge_splits_kernel[(rows,)](
            partial, statistics, attended, rows, head_dim, num_splits, block_splits, block_dim
        )
    return attended


def _require_fp8(cache: Tensor) -> None:
    if cache.is_cuda and (capability := torch.cuda.get_device_capability(cache.device)) < (8, 9):
        raise RuntimeError(
            f"float8_e4m3fn caches need compute capability 8.9, and {cache.device} has {capability[0]}."
            f"{capability[1]}: give caches in the dtype of query"
        )


@operator("cached_attention", mutates_args=("key_cache", "value_cache"))
def _cached_attention(
    query: Tensor,  # (batch, query_heads, new, head_dim)
    key: Tensor,  # (batch, kv_heads, new, head_dim), as `value`
    value: Tensor,
    key_cache: Tensor,  # (batch, kv_heads, max_tokens, head_dim), as `value_cache`
    value_cache: Tensor,
    lengths: Tensor,  # (batch,) int32 or int64
    tokens_per_block: int,
    scale: float,
    key_scale: Tensor | None,  # (kv_heads,) float32, as `value_scale`
    value_scale: Tensor | None,
    num_splits: int,
) -> Tensor:  # (batch, new, query_heads, head_dim)
    attend = append_and_attend_on_host if query.device.type == "cpu" else append_and_attend
    return attend(
        query, key, value, key_cache, value_cache, lengths, tokens_per_block, scale, key_scale, value_scale
    )


@_cached_attention.register_kernel("cuda")
def _cached_attention_cuda(query: Tensor, *others: Any) -> Tensor:
    if query.dtype == torch.float64:
        return append_and_attend(query, *others[:-1])
    return launch_cached_attention(query, *others)


@_cached_attention.register_fake
def _cached_attention_fake(query: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.transpose(1, 2).shape)


@with_checked_types
def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor | int,
    *,
    causal: Literal["causal", "block_causal"] = "causal",
    tokens_per_block: int = 17,
    scale: float | None = None,
    key_scale: Tensor | float | None = None,
    value_scale: Tensor | float | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """Writes new keys and values to a cache and attends to it; (batch, query_heads, new, head_dim).

    Args:
        query: (batch, query_heads, new, head_dim), any float dtype; head_dim from 1 to 256.
        key, value: (batch, kv_heads, new, head_dim) in the query's dtype; kv_heads divides query_heads.
        key_cache, value_cache: (batch, kv_heads, max_tokens, head_dim), written in place after the tokens
            held. In the query's dtype, or both `torch.float8_e4m3fn` (on CUDA: compute capability 8.9).
        lengths: (batch,) int32 or int64 on the device of the query, the number of tokens that each sequence holds
        before the call, or an int for all. The caller raises it, because several layers often share it. causal:
        "causal", or "block_causal" where a token also sees the rest of its block of
            `tokens_per_block`, as far as it is there; blocks are counted from the sequence's first token.
        scale: of the scores, by default head_dim ** -0.5.
        key_scale, value_scale: for e4m3 caches, the value of a cached 1: a float, or a tensor () or (kv_heads,); by
        default 1. Numbers beyond ±448 times it saturate. Attention uses new tokens as rounded by the cache, so
        results do not depend on how tokens are divided into calls. num_splits: number of parts in which held tokens
        are read on CUDA, by default chosen from the shapes.

    Any strides for query, key and value; the caches' head dimension must be contiguous. The output is
    contiguous as (batch, new, query_heads, head_dim), so `.transpose(1, 2).flatten(2)` of it is free. Key and
    value must not share memory with the caches. Under `torch.compile` with dynamic shapes, give caches that start at
    offset 0 of their storage, not views into a larger tensor: TorchInductor silently drops the offset of such a view
    (pytorch/pytorch issue 198068).

    A sequence with a negative length, or without room for the new tokens, gets NaN, and its cache is unchanged (an
    int is refused instead). A NaN or infinity in a query affects its row; in a key or value, the rows that see it and
    earlier rows of the same call. Cached numbers at and beyond lengths + new have no effect.

    For inference: RuntimeError if an input requires a gradient. ValueError or TypeError names an argument of a
    wrong shape, dtype, device or range.
    """
    arguments = checked(
        query,
        key,
        value,
        key_cache,
        value_cache,
        lengths,
        causal,
        tokens_per_block,
        scale,
        key_scale,
        value_scale,
    )
    if num_splits is not None and not 1 <= num_splits <= 128:
        raise ValueError(f"num_splits must be from 1 to 128, got {num_splits}")
    if query.numel() == 0:
        return torch.empty_like(query)
    return _cached_attention(*arguments, num_splits or 0).transpose(1, 2)


@with_checked_types
@in_exact_float32
def cached_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor | int,
    *,
    causal: Literal["causal", "block_causal"] = "causal",
    tokens_per_block: int = 17,
    scale: float | None = None,
    key_scale: Tensor | float | None = None,
    value_scale: Tensor | float | None = None,
) -> Tensor:
    """`cached_attention` in plain PyTorch, for every device, over the whole room of the cache."""
    arguments = checked(
        query,
        key,
        value,
        key_cache,
        value_cache,
        lengths,
        causal,
        tokens_per_block,
        scale,
        key_scale,
        value_scale,
    )
    if query.numel() == 0:
        return torch.empty_like(query)
    return append_and_attend(*arguments).transpose(1, 2)


_HEADS, _HEAD_DIM = 4, 64  # the paper's


def _calls(device: str) -> dict[str, Call]:
    def call(
        query: Tensor, key: Tensor, key_cache: Tensor, value_cache: Tensor, lengths: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The output and the caches after it, which are no views of one: TorchInductor loses a view's offset."""
        key_cache, value_cache = key_cache.clone(), value_cache.clone()
        attended = cached_attention(query, key, key * 2, key_cache, value_cache, lengths, **options)
        return attended, key_cache.float(), value_cache.float()

    numbers = Numbers(device, alike=True)
    new = (numbers.normal(3, 4, 2, 16), numbers.normal(3, 2, 2, 16))
    caches, lengths = [numbers.normal(3, 2, 24, 16) for _ in range(2)], numbers.integers(20, 3)
    blocks = partial(call, causal="block_causal", tokens_per_block=3, num_splits=2)
    scaled = partial(call, key_scale=0.05, value_scale=0.1)
    rows = dict.fromkeys(range(5), 0)
    return {
        "cached_attention": Call(call, (*new, *caches, lengths), rows),
        "cached_attention_blocks": Call(blocks, (*new, *caches, lengths), rows),
        "cached_attention_fp8": Call(scaled, (*new, *((20 * one).to(FP8) for one in caches), lengths), rows),
    }


def _arguments() -> dict[str, dict[str, Any]]:
    new, caches = torch.ones(3, 1, 2, 1, 8), torch.zeros(2, 1, 2, 9, 8)
    tensors = dict(zip(("query", "key", "value", "key_cache", "value_cache"), (*new, *caches), strict=True))
    numbers = {"lengths": 3, "scale": 0.5, "tokens_per_block": 2, "num_splits": 1}
    return {"cached_attention": {**tensors, **numbers, "causal": "block_causal"}}


def _launches(architecture: int) -> Iterator[Launch]:
    """Of (batch, kv_heads, query heads a kv head, new tokens, head_dim, room)."""
    half, single = torch.bfloat16, torch.float32
    sizes = [
        ((64, 4, 1, 1, 64, 340), half, half),
        ((1, 4, 1, 1, 64, 2048), half, half),
        ((64, 4, 1, 1, 64, 340), single, single),
        ((64, 4, 1, 17, 64, 340), half, half),
        ((64, 4, 1, 17, 64, 340), single, single),
        ((1, 1, 8, 1, 128, 4096), half, half),
        ((2, 2, 1, 17, 256, 340), single, single),
        ((64, 4, 1, 1, 64, 340), half, FP8),
        ((1, 1, 1, 1, 128, 4096), half, FP8),
        ((2, 1, 1, 340, 256, 340), half, half),
        ((1, 1, 1, 1, 1, 1), half, half),
        ((1, 1, 1, 1, 16, 4096), single, single),
        ((1, 1, 1, 2, 24, 100), single, single),
        ((3, 2, 2, 5, 96, 77), torch.float16, torch.float16),
        ((2, 1, 4, 17, 128, 340), torch.float16, FP8),
        ((2, 1, 4, 17, 80, 340), single, FP8),
    ]
    for index, (size, dtype, cached) in enumerate(sizes):
        batch, heads, group, new, head_dim, room = size
        if cached == FP8 and architecture < 89:
            continue
        query = torch.zeros(batch, heads * group, new, head_dim, dtype=dtype)
        key = torch.zeros(batch, heads, new, head_dim, dtype=dtype)
        cache = torch.zeros(batch, heads, room, head_dim, dtype=cached)
        scale = torch.ones(heads) if cached == FP8 else None
        given = (query, key, key, cache, cache, torch.zeros(batch, dtype=torch.int32), new, 0.1, scale, scale)
        what = f"{size} {dtype_name(dtype)}" + (" e4m3" if cached == FP8 else "")
        yield Launch(
            what,
            partial(launch_cached_attention, *given),
            hot=index < 10,
            spills={340: 24, 17: 20}.get(new, 0),
        )


def _sizes(cuda: bool, quick: bool) -> Sizes:
    """A rollout's lengths at several batches, a long cache, then other dtypes."""
    half = {"dtype": torch.bfloat16}
    if quick:
        return [{"batch": 2, "length": 40, "room": 64}]
    if not cuda:
        return [{"batch": batch, "length": 323, "compile_it": batch == 64} for batch in (1, 16, 64)]
    found: Sizes = [
        {"batch": b, "length": n, **half, "compile_it": b in (64, 1024) and n == 339}
        for b in (1, 16, 64, 256, 1024)
        for n in (17, 339)
    ]
    long = {"length": 2047, "room": 2048, **half}
    found += [{"batch": batch, **long, "compile_it": batch == 16} for batch in (1, 16, 256)]
    found += [{"batch": batch, "length": 339} for batch in (64, 1024)]
    return found + [{"batch": batch, "length": 339, **half, "fp8": True} for batch in (64, 1024)]


def _append_and_multiply(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, lengths: Tensor
) -> Tensor:
    """What is written without a kernel or SDPA: an append by index, two products and a softmax under a mask."""
    row = torch.arange(len(lengths), device=lengths.device)
    key_cache[row, :, lengths] = key[:, :, 0]
    value_cache[row, :, lengths] = value[:, :, 0]
    held = (torch.arange(key_cache.shape[2], device=lengths.device) <= lengths[:, None])[:, None, None]
    scores = query @ key_cache.transpose(2, 3) * query.shape[-1] ** -0.5
    return scores.masked_fill(~held, float("-inf")).softmax(-1) @ value_cache


def _problem(
    device: torch.device,
    batch: int,
    length: int,
    room: int = 340,
    dtype: torch.dtype = torch.float32,
    fp8: bool = False,
) -> Problem:
    """One decoding step: every sequence holds `length` tokens of `room` and gets one more."""
    numbers = Numbers(device)
    new = numbers.normal(3, batch, _HEADS, 1, _HEAD_DIM, dtype=dtype)
    caches = numbers.normal(2, batch, _HEADS, room, _HEAD_DIM, dtype=dtype)
    scales: dict[str, Any] = {}
    if fp8:
        # Scales as tensors, since a float is moved to the device at each call.
        scale = torch.full((_HEADS,), 0.02, device=device)
        caches = (caches.float() / 0.02).clamp(-448, 448).to(FP8)
        scales = {"key_scale": scale, "value_scale": scale.clone()}
    lengths = torch.full((batch,), length, dtype=torch.int32, device=device)
    tensors = (*new.unbind(), *caches.unbind(), lengths)
    call = partial(cached_attention, *tensors, **scales)
    ours: dict[str, Function] = {"ours": call}
    for count in (1, 2, 4, 8) if device.type == "cuda" else ():
        ours[f"ours_{count}_splits"] = partial(call, num_splits=count)
    exact = [t.clone() if t.dtype in (FP8, torch.int32) else t.float() for t in tensors]
    size, cache_size = dtype.itemsize, caches.dtype.itemsize
    cached = 2 * batch * _HEADS * length * _HEAD_DIM * cache_size
    return Problem(
        {
            "batch": batch,
            "length": length,
            "room": room,
            "dtype": dtype_name(dtype),
            "cache": dtype_name(caches.dtype),
        },
        flops=4 * batch * _HEADS * (length + 1) * _HEAD_DIM,
        bytes=cached + batch * _HEADS * _HEAD_DIM * (4 * size + 2 * cache_size),
        dtype=dtype,
        ours=ours,
        plain=None if fp8 else _append_and_multiply,
        bind=lambda function: partial(function, *tensors),
        expected=lambda: cached_attention_reference(*exact, **scales),
        tolerance=1e-5 if dtype == torch.float32 else 1e-2,
        inputs={"tensors": tensors},
    )


SPEC = OpSpec(
    cached_attention,
    _calls,
    _arguments,
    cached_attention_reference,
    about="""
Attention of new tokens over a static KV cache, which it writes them to, in one launch (two where few sequences are
split over the device). Causal or block-causal, grouped query heads, each sequence with its length; caches in the
dtype of the query, or in e4m3 with a scale a head.
""",
    example="""
import torch
from iris_fast.kernels import cached_attention

query = torch.randn(2, 4, 1, 64)  # 4 query heads, 2 of keys and values
key, value = torch.randn(2, 2, 2, 1, 64)
key_cache, value_cache = torch.zeros(2, 2, 2, 340, 64)
lengths = torch.tensor([7, 0])
attended = cached_attention(query, key, value, key_cache, value_cache, lengths)  # (2, 4, 1, 64)
""",
    launches=_launches,
    any_sign=("scale",),
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"batch": 64, "length": 170},
        Row(
            "(batch, heads, new, head_dim), 2 × (batch, kv_heads, new, head_dim), 2 caches (batch, kv_heads, "
            "max_tokens, head_dim), lengths (batch,) → (batch, heads, new, head_dim)",
            "head_dim 1 to 256; kv_heads divides heads; e4m3 caches from compute capability 8.9; no gradient",
            {"batch": 64},
            {"batch": 64, "length": 339, "dtype": "bfloat16", "cache": "bfloat16"},
            "batch {batch}, {length} tokens",
        ),
        peers=("SDPA", "FlexAttention", "FlashAttention", "FlashInfer"),
        minutes=0.25,
    ),
)

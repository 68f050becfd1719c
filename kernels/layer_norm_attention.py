"""LayerNorm and a whole self-attention with its residual for one new token a sequence, in one launch.

y = x + W_p attention(W_qkv LN(x) + b_qkv; KV cache) + b_p, the token's key and value being appended to the cache
(Vaswani et al., "Attention is all you need", 2017, section 3.2, with LayerNorm first). The stream x is (parts, batch,
dim) and stands for its sum over the first axis; so does y, (1 + heads, batch, dim): x added up, then what each head
adds through its columns of W_p, with b_p in the first.

A block owns a head of a group of sequences. It adds their rows of x up and normalises them (each head repeats that:
a few thousand numbers, from L2), multiplies them by the head's rows of W_qkv, appends key and value, attends to the
cache (the sequences in step, so that loads of all are in flight), and multiplies what it attended to by the head's
columns of W_p. Heads never wait for each other: the next reader of the stream adds their shares in a fixed order, so
there is no grid barrier and no atomic addition. No block reads a cached number that another one writes. Bytes moved,
at the least: held keys and values once, 2 batch heads length head_dim; both weights once, 4 heads head_dim dim; the
parts read, and 4 (1 + heads) batch dim bytes written. Each group reads the weights from L2 once. FLOPs: 8 batch heads
head_dim dim of products, 4 batch heads (length + 1) head_dim of attention.

By calculation, not measured: at batch 64, 4 heads of 64, dim 256 in bfloat16, a block of four sequences reads 128 KB
of weights, 68 KB of 17 parts and, half-way through a rollout, 172 KB of cache, one after the other. At 70 KB/µs a
multiprocessor (64 bytes a clock less a third) this takes 5.3 µs, plus four waits for memory, 2.8 µs. The three
launches that it replaces read 8 MB less of weights and stream in all. Only a GPU can tell which is faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._attention.arguments import (
    MAX_HEAD_DIM,
    check_writable,
    checked_lengths,
    checked_scale,
)
from ._attention.on_cpu import append_and_attend, append_and_attend_on_host
from ._attention.tiles import attend_sequences, finite_or_zero
from ._stream.arguments import (
    as_parts,
    check_linear,
    check_precision,
    check_stream,
    check_tensors,
    normalised,
    require_small_products,
    result_dtype,
    stream_sum,
)
from ._stream.tiles import (
    normalised_pieces,
    piece,
    plus_bias,
    plus_product,
    store_rows,
    store_stream,
    stream_rows,
)
from .cached_attention import cached_attention
from .common.arguments import check_range, with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.rounding import rounded_to
from .common.spec import Benchmark, Call, Function, Launch, Numbers, OpSpec, Problem, Row, Sizes, dtype_name
from .common.triton import (
    jit,
    large_shared_memory,
    num_multiprocessors,
    on_its_device,
    require_triton,
    tl,
    triton,
)
from .layer_norm_linear import PRECISIONS, layer_norm_linear

_OCCUPANCY = 0.45  # blocks a multiprocessor has to be given before more sequences share one
_SEQUENCES = (8, 4, 2, 1)


@jit(do_not_specialize=["max_tokens"])  # callers may give the part of the cache that they need
def _layer_norm_attention_kernel(
    parts,  # (PARTS, batch, dim); the last dimension is contiguous
    norm_weight,  # (dim,), contiguous
    norm_bias,  # (dim,), contiguous; read if HAS_NORM_BIAS
    qkv_weight,  # (3 * heads * head_dim, dim), any strides: query, key, value; products are in its dtype
    qkv_bias,  # (3 * heads * head_dim,), contiguous; read if HAS_QKV_BIAS
    proj_weight,  # (dim, heads * head_dim), any strides, in the dtype of qkv_weight
    proj_bias,  # (dim,), contiguous; read if HAS_PROJ_BIAS
    key_cache,  # in and out: (batch, heads, max_tokens, head_dim), in the dtype of qkv_weight
    value_cache,
    lengths,  # (batch,) int32 or int64, contiguous: tokens held
    result,  # out: (1 + heads, batch, dim) float32, contiguous
    batch,
    dim,
    heads,
    head_dim,
    max_tokens,
    scale,  # float32: of the scores, times log2(e)
    eps,
    stride_part,
    stride_row,
    stride_qkv_out,
    stride_qkv_dim,
    stride_proj_out,
    stride_proj_dim,
    # Elements from one sequence, head and token to the next; the head dimension is contiguous.
    stride_key_batch,
    stride_key_head,
    stride_key_token,
    stride_value_batch,
    stride_value_head,
    stride_value_token,
    PARTS: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    HAS_QKV_BIAS: tl.constexpr,
    HAS_PROJ_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,  # sequences a block
    PIECES: tl.constexpr,  # a power of two of pieces of BLOCK_K columns that `dim` fits in
    BLOCK_DIM: tl.constexpr,  # a power of two that `head_dim` fits in
    BLOCK_K: tl.constexpr,  # how much of `dim` is multiplied at a time
    BLOCK_OUT: tl.constexpr,  # how many results are made at a time
    LANES: tl.constexpr,  # tokens of a sequence attended to at a time
    STAGES: tl.constexpr,
):
    # Neighbouring blocks share a head's weights.
    groups = tl.cdiv(batch, ROWS)
    row = (tl.program_id(0) % groups) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(0) // groups
    row_mask = row < batch
    element = qkv_weight.dtype.element_ty
    x = stream_rows(parts, row, row_mask, dim, stride_part, stride_row, PARTS, PIECES, BLOCK_K)
    if head == 0:
        store_stream(x, result, row, row_mask, dim, PIECES, BLOCK_K)
    pieces = normalised_pieces(x, norm_weight, norm_bias, dim, eps, HAS_NORM_BIAS, PIECES, ROWS, BLOCK_K)

    unit = tl.arange(0, BLOCK_DIM)
    unit_mask = unit < head_dim
    query_unit = head * head_dim + unit
    key_unit, value_unit = query_unit + heads * head_dim, query_unit + 2 * heads * head_dim
    query_rows = qkv_weight + query_unit.to(tl.int64) * stride_qkv_out
    key_rows = qkv_weight + key_unit.to(tl.int64) * stride_qkv_out
    value_rows = qkv_weight + value_unit.to(tl.int64) * stride_qkv_out
    query = tl.zeros((ROWS, BLOCK_DIM), tl.float32)
    key = tl.zeros((ROWS, BLOCK_DIM), tl.float32)
    value = tl.zeros((ROWS, BLOCK_DIM), tl.float32)
    for index in tl.range(0, tl.cdiv(dim, BLOCK_K), num_stages=STAGES):
        normed = piece(pieces, index, PIECES, element)
        start = index * BLOCK_K
        query = plus_product(
            query, normed, query_rows, unit_mask, start, dim, stride_qkv_dim, BLOCK_K, PRECISION
        )
        key = plus_product(key, normed, key_rows, unit_mask, start, dim, stride_qkv_dim, BLOCK_K, PRECISION)
        value = plus_product(
            value, normed, value_rows, unit_mask, start, dim, stride_qkv_dim, BLOCK_K, PRECISION
        )
    query = plus_bias(query, qkv_bias, query_unit, unit_mask, HAS_QKV_BIAS) * scale
    key = rounded_to(plus_bias(key, qkv_bias, key_unit, unit_mask, HAS_QKV_BIAS), element)
    value = rounded_to(plus_bias(value, qkv_bias, value_unit, unit_mask, HAS_QKV_BIAS), element)

    length = tl.load(lengths + row, mask=row_mask, other=0).to(tl.int64)
    fits = row_mask & (length >= 0) & (length < max_tokens)
    held = tl.where(fits, length, 0)
    sequence, head_offset = row.to(tl.int64), head.to(tl.int64)
    keys = key_cache + sequence * stride_key_batch + head_offset * stride_key_head
    values = value_cache + sequence * stride_value_batch + head_offset * stride_value_head
    maximum, total, mixed = attend_sequences(
        query,
        keys,
        values,
        stride_key_token,
        stride_value_token,
        held.to(tl.int32),
        head_dim,
        ROWS,
        LANES,
        BLOCK_DIM,
        STAGES,
    )
    appended = fits[:, None] & unit_mask[None, :]
    tl.store((keys + held * stride_key_token)[:, None] + unit[None, :], key, mask=appended)
    tl.store((values + held * stride_value_token)[:, None] + unit[None, :], value, mask=appended)
    # The new token, as the cache holds it.
    score = tl.sum(key.to(tl.float32) * query, axis=1)
    raised = tl.maximum(maximum, score)
    decay = tl.exp2(maximum - finite_or_zero(raised))
    weight = tl.exp2(score - finite_or_zero(raised))
    mixed = mixed * decay[:, None] + weight[:, None] * value.to(tl.float32)
    mixed = mixed / (total * decay + weight)[:, None]
    mixed = rounded_to(tl.where(fits[:, None], mixed, float("nan")), element)

    biased = tl.where(head == 0, dim, 0)  # of the results, how many this block gives their bias
    share = result + (1 + head_offset) * batch * dim
    first_unit = head_offset * head_dim
    for start in tl.range(0, dim, BLOCK_OUT, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_OUT)
        columns = proj_weight + column.to(tl.int64) * stride_proj_out + first_unit * stride_proj_dim
        added = plus_product(
            tl.zeros((ROWS, BLOCK_OUT), tl.float32),
            mixed,
            columns,
            column < dim,
            0,
            head_dim,
            stride_proj_dim,
            BLOCK_DIM,
            PRECISION,
        )
        added = plus_bias(added, proj_bias, column, column < biased, HAS_PROJ_BIAS)
        store_rows(added, share, row, row_mask, column, dim)


def configuration(
    batch: int,
    heads: int,
    head_dim: int,
    dim: int,
    dtype: torch.dtype,
    multiprocessors: int,
    large_memory: bool,
) -> dict[str, int]:
    """Sizes of a block: sequences, columns of a product at a time, tokens of each, warps and stages of loading.

    As many sequences share a block, and its reading of the weights, as still give about every other multiprocessor a
    block. A stage of loading is 24 KB of W_qkv at head_dim 64, 16 KB of W_p or 16 KB of keys and values.
    """
    block_dim = max(16, triton.next_power_of_2(head_dim))
    numbers = 4096 if dtype == torch.float32 else 8192  # a tile of weights, of keys or of values, at the most
    columns = max(16, triton.next_power_of_2(dim))
    rows = next(
        rows
        for rows in _SEQUENCES
        if rows == 1 or triton.cdiv(batch, rows) * heads >= _OCCUPANCY * multiprocessors
    )
    return {
        "ROWS": rows,
        "BLOCK_K": min(columns, numbers // 128, max(16, numbers // block_dim)),
        "BLOCK_OUT": min(columns, 128, max(16, numbers // block_dim)),
        "LANES": max(1, min(128, numbers // 2 // block_dim) // rows),
        "STAGES": 3 if large_memory else 2,
        "num_warps": 4 if block_dim <= 64 else 8,
    }


@on_its_device
def launch_layer_norm_attention(
    parts: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    proj_weight: Tensor,
    proj_bias: Tensor | None,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    eps: float = 1e-5,
    scale: float = 1.0,
    precision: str = "ieee",
    **sizes: int,
) -> Tensor:
    """Launches the kernel on checked arguments; `sizes` replace those of `configuration`."""
    require_triton("layer_norm_attention", parts, qkv_weight, key_cache, lengths)
    require_small_products("layer_norm_attention")
    parts = parts if parts.stride(2) == 1 else parts.contiguous()
    (count, batch, dim), (heads, max_tokens, head_dim) = parts.shape, key_cache.shape[1:]
    result = torch.empty((1 + heads, batch, dim), dtype=torch.float32, device=parts.device)
    if batch == 0:
        return result
    norm_weight = norm_weight.contiguous()
    norm_bias, qkv_bias, proj_bias = (
        None if t is None else t.contiguous() for t in (norm_bias, qkv_bias, proj_bias)
    )
    multiprocessors, large_memory = num_multiprocessors(parts.device), large_shared_memory(parts.device)
    shapes = (batch, heads, head_dim, dim, qkv_weight.dtype)
    chosen = configuration(*shapes, multiprocessors, large_memory) | sizes
    _layer_norm_attention_kernel[(triton.cdiv(batch, chosen["ROWS"]) * heads,)](
        parts,
        norm_weight,
        norm_weight if norm_bias is None else norm_bias,
        qkv_weight,
        qkv_weight if qkv_bias is None else qkv_bias,
        proj_weight,
        proj_weight if proj_bias is None else proj_bias,
        *(key_cache, value_cache, lengths.contiguous(), result),
        *(batch, dim, heads, head_dim, max_tokens),
        scale * math.log2(math.e),
        eps,
        *(*parts.stride()[:2], *qkv_weight.stride(), *proj_weight.stride()),
        *(*key_cache.stride()[:3], *value_cache.stride()[:3]),
        PARTS=count,
        HAS_NORM_BIAS=norm_bias is not None,
        HAS_QKV_BIAS=qkv_bias is not None,
        HAS_PROJ_BIAS=proj_bias is not None,
        PRECISION=precision,
        PIECES=triton.next_power_of_2(triton.cdiv(dim, chosen["BLOCK_K"])),
        BLOCK_DIM=max(16, triton.next_power_of_2(head_dim)),
        **chosen,
    )
    return result


def _plain(
    parts: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    proj_weight: Tensor,
    proj_bias: Tensor | None,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    eps: float,
    scale: float,
) -> Tensor:
    x = stream_sum(parts, result_dtype(parts, qkv_weight))
    if len(x) == 0:
        return x.new_empty((1 + key_cache.shape[1], *x.shape))
    bias = None if qkv_bias is None else qkv_bias.to(qkv_weight.dtype)
    normed = normalised(x, norm_weight, norm_bias, eps).to(qkv_weight.dtype)
    heads, head_dim = key_cache.shape[1], key_cache.shape[3]
    packed = torch.nn.functional.linear(normed, qkv_weight, bias).unflatten(1, (3, heads, 1, head_dim))
    attend = append_and_attend_on_host if parts.device.type == "cpu" else append_and_attend
    query, key, value = packed.unbind(1)
    attended = attend(query, key, value, key_cache, value_cache, lengths, 1, scale, None, None)
    columns = proj_weight.unflatten(1, (heads, head_dim)).permute(1, 2, 0)  # (heads, head_dim, dim)
    shares = attended[:, 0].transpose(0, 1).to(x.dtype) @ columns.to(x.dtype)
    return as_parts(x, shares, proj_bias)


@operator("layer_norm_attention", mutates_args=("key_cache", "value_cache"))
def _layer_norm_attention(
    parts: Tensor,  # (parts, batch, dim)
    norm_weight: Tensor,  # (dim,)
    norm_bias: Tensor | None,  # (dim,)
    qkv_weight: Tensor,  # (3 * heads * head_dim, dim)
    qkv_bias: Tensor | None,  # (3 * heads * head_dim,)
    proj_weight: Tensor,  # (dim, heads * head_dim)
    proj_bias: Tensor | None,  # (dim,)
    key_cache: Tensor,  # (batch, heads, max_tokens, head_dim), as `value_cache`
    value_cache: Tensor,
    lengths: Tensor,  # (batch,) int32 or int64
    eps: float,
    scale: float,
    precision: str,
) -> Tensor:  # (1 + heads, batch, dim)
    tensors = (parts, norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias)
    return _plain(*tensors, key_cache, value_cache, lengths, eps, scale)


@_layer_norm_attention.register_kernel("cuda")
def _layer_norm_attention_cuda(
    parts: Tensor, norm_weight: Tensor, norm_bias: Tensor | None, qkv_weight: Tensor, *others: Any
) -> Tensor:
    tensors = (parts, norm_weight, norm_bias, qkv_weight)
    if result_dtype(parts, qkv_weight) == torch.float64:
        return _plain(*tensors, *others[:-1])
    return launch_layer_norm_attention(*tensors, *others)


@_layer_norm_attention.register_fake
def _layer_norm_attention_fake(
    parts: Tensor, norm_weight: Tensor, norm_bias: Tensor | None, qkv_weight: Tensor, *others: Any
) -> Tensor:
    key_cache = others[3]
    return parts.new_empty((1 + key_cache.shape[1], *parts.shape[1:]), dtype=result_dtype(parts, qkv_weight))


@with_checked_types
def layer_norm_attention(
    parts: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    proj_weight: Tensor,
    proj_bias: Tensor | None,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor | int,
    *,
    norm_weight: Tensor,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    scale: float | None = None,
    precision: str = "ieee",
) -> Tensor:
    """`x + attention(layer_norm(x))` for x = `parts.sum(0)`, as parts again: (1 + heads, batch, dim).

    One new token a sequence: its key and value are written to the cache after the tokens held.

    Args:
        parts: (parts, batch, dim), any float dtype; `x[None]` is a stream in one part. At most 65 parts, dim 1024.
        qkv_weight, qkv_bias: (3 * heads * head_dim, dim) and (3 * heads * head_dim,) or None: query, key and value
            one below the other, each with its heads in order.
        proj_weight, proj_bias: (dim, heads * head_dim) and (dim,) or None. Weights and caches are of one dtype, to
            which LN(x), key, value and what is attended to are rounded. Sums are in float32.
        key_cache, value_cache: (batch, heads, max_tokens, head_dim), head_dim from 1 to 256, written in place; the
            head dimension must be contiguous.
        lengths: (batch,) int32 or int64 on the device, the tokens that each sequence holds before the call, or an
            int for all. The caller raises it.
        norm_weight, norm_bias, eps: the LayerNorm's, (dim,).
        scale: of the scores, by default head_dim ** -0.5.
        precision: of float32 products with weights on a GPU, as for `layer_norm_linear`.

    The result is float32 (float64 for float64): the sum of `parts`, then the share of each head. Its `.sum(0)` is the
    plain result; the next layer takes it as it is. Float64, and every tensor outside a GPU, goes to
    `layer_norm_attention_reference`. A sequence with a negative length, or without room, gets NaN, and its cache is
    unchanged (an int is refused instead). For several new tokens, a few sequences with thousands of tokens, or
    grouped heads, take `layer_norm_linear` and `cached_attention`.

    For inference: RuntimeError if an input requires a gradient. ValueError or TypeError names an argument of a wrong
    shape, dtype, device or value.
    """
    check_precision(precision)
    tensors = (parts, norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias)
    lengths = _checked(*tensors, key_cache, value_cache, lengths)
    scale = checked_scale(scale, key_cache.shape[3])
    check_range("eps", eps, 0)
    return _layer_norm_attention(*tensors, key_cache, value_cache, lengths, eps, scale, precision)


@with_checked_types
@in_exact_float32
def layer_norm_attention_reference(
    parts: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    proj_weight: Tensor,
    proj_bias: Tensor | None,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor | int,
    *,
    norm_weight: Tensor,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    scale: float | None = None,
) -> Tensor:
    """`layer_norm_attention` in plain PyTorch, for every device."""
    tensors = (parts, norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias)
    lengths = _checked(*tensors, key_cache, value_cache, lengths)
    scale = checked_scale(scale, key_cache.shape[3])
    check_range("eps", eps, 0)
    return _plain(*tensors, key_cache, value_cache, lengths, eps, scale)


def _checked(
    parts: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    proj_weight: Tensor,
    proj_bias: Tensor | None,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor | int,
) -> Tensor:
    """The lengths as a tensor; raises for arguments that do not go together."""
    check_stream(parts, norm_weight, norm_bias)
    _, batch, dim = parts.shape
    if key_cache.dim() != 4 or key_cache.shape != value_cache.shape or key_cache.shape[0] != batch:
        raise ValueError(
            f"key_cache and value_cache must be (batch, heads, max_tokens, head_dim) with the batch of parts, "
            f"{batch}, got {tuple(key_cache.shape)} and {tuple(value_cache.shape)}"
        )
    _, heads, max_tokens, head_dim = key_cache.shape
    if heads == 0 or not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(
            f"caches must have a head and head_dim from 1 to {MAX_HEAD_DIM}, got shape {tuple(key_cache.shape)}"
        )
    check_linear("qkv", qkv_weight, qkv_bias, (3 * heads * head_dim, dim))
    check_linear("proj", proj_weight, proj_bias, (dim, heads * head_dim))
    tensors = {
        "parts": parts,
        "qkv_weight": qkv_weight,
        "qkv_bias": qkv_bias,
        "proj_weight": proj_weight,
        "proj_bias": proj_bias,
        "key_cache": key_cache,
        "value_cache": value_cache,
        "norm_weight": norm_weight,
        "norm_bias": norm_bias,
    }
    check_tensors("layer_norm_attention", tensors, ("qkv_weight", "proj_weight", "key_cache", "value_cache"))
    check_writable("key_cache", key_cache)
    check_writable("value_cache", value_cache)
    return checked_lengths(lengths, batch, 1, max_tokens, parts.device)


_HEADS, _HEAD_DIM, _DIM, _PARTS, _ROOM = 4, 64, 256, 17, 340  # the paper's; the parts that its MLP leaves


def _calls(device: str) -> dict[str, Call]:
    def call(
        parts: Tensor, qkv: Tensor, proj: Tensor, gain: Tensor, keys: Tensor, values: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The stream, and the caches after it."""
        keys, values = keys.clone(), values.clone()
        stream = layer_norm_attention(parts, qkv, None, proj, None, keys, values, lengths, norm_weight=gain)
        return stream, keys, values

    numbers = Numbers(device, alike=True)
    weights = (numbers.normal(96, 8), numbers.normal(8, 32), 1 + numbers.normal(8).abs())
    caches = (numbers.normal(3, 2, 24, 16), numbers.normal(3, 2, 24, 16))
    given = (numbers.normal(2, 3, 8), *weights, *caches, numbers.integers(20, 3))
    return {"layer_norm_attention": Call(call, given, {0: 1, 4: 0, 5: 0, 6: 0})}


def _arguments() -> dict[str, dict[str, Any]]:
    stream = {"parts": torch.linspace(0, 1, 32).view(1, 2, 16), "norm_weight": torch.ones(16), "eps": 1e-5}
    layers = {
        "qkv_weight": torch.eye(48, 16),
        "proj_weight": torch.eye(16),
        "qkv_bias": None,
        "proj_bias": None,
    }
    caches = {name: torch.zeros(2, 2, 9, 8) for name in ("key_cache", "value_cache")}
    return {"layer_norm_attention": {**stream, **layers, **caches, "lengths": 3, "scale": 0.5}}


def _launches(_: int) -> Iterator[Launch]:
    """Of (parts, batch, dim, heads, head_dim, room)."""
    papers = [(17, 64, 256, 4, 64, 340), (1, 1, 256, 4, 64, 340), (9, 256, 256, 4, 64, 340)]
    others = [(1, 1, 1, 1, 1, 1), (3, 5, 40, 2, 24, 77), (9, 64, 1024, 8, 128, 340), (2, 3, 512, 2, 256, 20)]
    kinds = [(torch.float32, precision) for precision in PRECISIONS] + [(torch.bfloat16, "ieee")]
    for size in [*papers, *others]:
        parts, batch, dim, heads, head_dim, room = size
        width = heads * head_dim
        for dtype, precision in [*kinds, (torch.float16, "ieee")] if parts in (1, 17) else kinds[::3]:
            stream, ones = torch.zeros(parts, batch, dim), torch.ones(dim)
            qkv, proj = torch.zeros(3 * width, dim, dtype=dtype), torch.zeros(dim, width, dtype=dtype)
            cache = torch.zeros(batch, heads, room, head_dim, dtype=dtype)
            lengths = torch.zeros(batch, dtype=torch.int32)
            layers = (qkv, qkv.new_zeros(3 * width), proj, proj.new_zeros(dim))
            given = (stream, ones, ones, *layers, cache, cache, lengths, 1e-5, 0.1, precision)
            what = f"{size} {dtype_name(dtype)} {precision}"
            spills = 32 if batch == 1 and precision == "tf32x3" else 0
            yield Launch(what, partial(launch_layer_norm_attention, *given), size in papers, spills)
    half = (stream.bfloat16(), ones.bfloat16(), None, qkv, None, proj, None, cache, cache, lengths.long())
    yield Launch("without biases", partial(launch_layer_norm_attention, *half))


def _sizes(cuda: bool, quick: bool) -> Sizes:
    if quick or not cuda:
        return [{"batch": batch, "length": 323, "compile_it": True} for batch in ((2,) if quick else (1, 64))]
    found: Sizes = [
        {"batch": batch, "length": length, "dtype": torch.bfloat16, "compile_it": True}
        for batch in (1, 16, 64, 256)
        for length in (17, 170, 339)
    ]
    return [*found, {"batch": 64, "length": 170, "compile_it": True}]


def _inputs(device: torch.device, batch: int, length: int, dtype: torch.dtype) -> dict[str, Any]:
    normal = Numbers(device).normal
    width = _HEADS * _HEAD_DIM
    caches = normal(2, batch, _HEADS, _ROOM, _HEAD_DIM, dtype=dtype)
    return {
        "parts": normal(_PARTS, batch, _DIM),
        "norm_weight": normal(_DIM),
        "norm_bias": normal(_DIM),
        "qkv_weight": normal(3 * width, _DIM, dtype=dtype) / 16,
        "qkv_bias": normal(3 * width, dtype=dtype),
        "proj_weight": normal(_DIM, width, dtype=dtype) / 16,
        "proj_bias": normal(_DIM, dtype=dtype),
        "key_cache": caches[0],
        "value_cache": caches[1],
        "lengths": torch.full((batch,), length, dtype=torch.int32, device=device),
    }


def _in_three_launches(inputs: dict[str, Any]) -> Tensor:
    """The same by `layer_norm_linear` and `cached_attention`, from a stream in one piece."""
    x = inputs["parts"][0]
    norm = {name: inputs[name] for name in ("norm_weight", "norm_bias")}
    packed = layer_norm_linear(x, inputs["qkv_weight"], inputs["qkv_bias"], **norm)
    query, key, value = packed.unflatten(1, (3, _HEADS, 1, _HEAD_DIM)).unbind(1)
    cache = (inputs["key_cache"], inputs["value_cache"], inputs["lengths"])
    rows = cached_attention(query, key, value, *cache).transpose(1, 2).flatten(1)
    return layer_norm_linear(rows, inputs["proj_weight"], inputs["proj_bias"], residual=x)


def _problem(device: torch.device, batch: int, length: int, dtype: torch.dtype = torch.float32) -> Problem:
    """LayerNorm, attention and residual, from a stream in parts; outputs are compared by their sums."""
    inputs = _inputs(device, batch, length, dtype)
    one = inputs | {"parts": inputs["parts"].sum(0)[None]}
    ours: dict[str, Function] = {"ours": partial(layer_norm_attention, **inputs)}
    for rows in reversed(_SEQUENCES) if device.type == "cuda" else ():
        block = {"ROWS": rows, "LANES": 4096 // _HEAD_DIM // rows // (2 if dtype == torch.float32 else 1)}
        launch: Function = partial(launch_layer_norm_attention, *inputs.values())
        launch = partial(launch, scale=_HEAD_DIM**-0.5, **block)
        ours[f"ours_{rows}_sequences"] = launch
    ours["ours_in_three_launches"] = partial(_in_three_launches, one)
    exact = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    width = _HEADS * _HEAD_DIM
    read = 2 * batch * width * (length + 1) + 4 * width * _DIM
    return Problem(
        {"batch": batch, "length": length, "dtype": dtype_name(dtype)},
        flops=8 * batch * width * _DIM + 4 * batch * width * (length + 1),
        bytes=read * dtype.itemsize + 4 * (_PARTS + 1 + _HEADS) * batch * _DIM,
        dtype=dtype,
        ours=ours,
        plain=layer_norm_attention_reference,
        bind=lambda function: partial(function, **one),
        expected=lambda: layer_norm_attention_reference(**exact).sum(0),
        tolerance=1e-5 if dtype == torch.float32 else 2e-2,
        compared=lambda found: found.sum(0) if found.dim() == 3 else found,
    )


SPEC = OpSpec(
    layer_norm_attention,
    _calls,
    _arguments,
    layer_norm_attention_reference,
    about="""
Half a layer of a GPT for one new token a sequence, in one launch: LayerNorm, query, key and value, append, attention,
projection and residual. Blocks do not add their shares up, but leave them as parts of the residual stream, `(parts,
batch, dim)`, which the next launch adds as it reads: the stream is `parts.sum(0)`.
""",
    example="""
import torch
from iris_fast.kernels import layer_norm_attention

parts, norm = torch.randn(1, 64, 256), torch.ones(256)  # a stream in one part
qkv, proj = torch.randn(768, 256), torch.randn(256, 256)
caches = torch.zeros(2, 64, 4, 340, 64).unbind()
parts = layer_norm_attention(parts, qkv, None, proj, None, *caches, lengths=7, norm_weight=norm)
""",
    launches=_launches,
    any_sign=("scale",),
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"batch": 64, "length": 170},
        Row(
            "(parts, batch, dim), weights, 2 caches (batch, heads, max_tokens, head_dim), lengths (batch,) → "
            "(1 + heads, batch, dim)",
            "one new token a sequence; dim to 1024, 65 parts; head_dim 1 to 256; no gradient",
            {"batch": 64},
            {"batch": 64, "length": 339, "dtype": "bfloat16"},
            "batch {batch}, {length} tokens, dim 256",
        ),
    ),
)

"""Attention over a KV cache with the append, and the whole attention of a layer, beside PyTorch and other kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Function, Work, dtype_name
from benchmarks.peers import COMPILED, FLASH_ATTENTION, FLASHINFER, Unavailable, compiled
from iris_fast.kernels import (
    cached_attention,
    cached_attention_reference,
    layer_norm_attention,
    layer_norm_attention_reference,
    layer_norm_linear,
)
from iris_fast.kernels.layer_norm_attention import launch_layer_norm_attention

from .table import Operation, Problem, Row, Sizes

HEADS, HEAD_DIM, DIM, PARTS = 4, 64, 256, 17  # the paper's; the parts that its MLP leaves
FP8 = torch.float8_e4m3fn
SCALE = 0.02  # of e4m3 caches
SEQUENCES = (1, 2, 4, 8)  # a block of the whole attention
BF16, FLOAT32 = torch.bfloat16, torch.float32


def sizes(cuda: bool, quick: bool) -> Sizes:
    """A rollout's lengths at several batches, a long cache, then other dtypes."""
    if quick:
        return [{"batch": 2, "length": 40, "room": 64}]
    if not cuda:
        return [{"batch": batch, "length": 323, "compile_it": batch == 64} for batch in (1, 16, 64)]
    bf16 = [
        {"batch": b, "length": n, "dtype": BF16, "compile_it": b in (64, 1024) and n == 339}
        for b in (1, 16, 64, 256, 1024)
        for n in (17, 339)
    ]
    long = [
        {"batch": batch, "length": 2047, "room": 2048, "dtype": BF16, "compile_it": batch == 16}
        for batch in (1, 16, 256)
    ]
    other: Sizes = [{"batch": batch, "length": 339} for batch in (64, 1024)]
    return bf16 + long + other + [{"batch": b, "length": 339, "dtype": BF16, "fp8": True} for b in (64, 1024)]


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


def problem(
    device: torch.device,
    batch: int,
    length: int,
    room: int = 340,
    dtype: torch.dtype = FLOAT32,
    fp8: bool = False,
    compile_it: bool = False,
) -> Problem:
    """One decoding step: every sequence holds `length` tokens of `room` and gets one more."""
    generator = torch.Generator(device).manual_seed(0)
    new = torch.randn(3, batch, HEADS, 1, HEAD_DIM, device=device, generator=generator).to(dtype)
    shape = (2, batch, HEADS, room, HEAD_DIM)
    caches = torch.randn(shape, device=device, generator=generator, dtype=dtype)
    scales: dict[str, Any] = {}
    if fp8:
        caches = (caches.float() / SCALE).clamp(-448, 448).to(FP8)
        # Tensors, since a float is moved to the device at each call.
        scale = torch.full((HEADS,), SCALE, device=device)
        scales = {"key_scale": scale, "value_scale": scale.clone()}
    lengths = torch.full((batch,), length, dtype=torch.int32, device=device)
    tensors = (*new.unbind(), *caches.unbind(), lengths)
    size, cache_size = dtype.itemsize, 1 if fp8 else dtype.itemsize
    cached = 2 * batch * HEADS * length * HEAD_DIM * cache_size
    ours: dict[str, Function] = {"ours": lambda: cached_attention(*tensors, **scales)}
    for splits in (1, 2, 4, 8) if device.type == "cuda" else ():
        ours[f"ours_{splits}_splits"] = lambda splits=splits: cached_attention(  # type: ignore[misc]
            *tensors, num_splits=splits, **scales
        )
    query, key, value = (tensor.float() for tensor in new.unbind())
    key_cache, value_cache = (cache.clone() if fp8 else cache.float() for cache in caches.unbind())
    return Problem(
        {
            "batch": batch,
            "length": length,
            "room": room,
            "dtype": dtype_name(dtype),
            "cache": "float8_e4m3fn" if fp8 else dtype_name(dtype),
        },
        Work(
            4 * batch * HEADS * (length + 1) * HEAD_DIM,
            cached + batch * HEADS * HEAD_DIM * (4 * size + 2 * cache_size),
            dtype_name(dtype),
        ),
        ours,
        None if fp8 else append_and_multiply,
        lambda function: lambda: function(*tensors),
        others=peers(tensors, dtype, fp8, compile_it),
        expected=lambda: cached_attention_reference(
            query, key, value, key_cache, value_cache, lengths, **scales
        ),
        tolerance=1e-5 if dtype == FLOAT32 else 1e-2,
    )


def peers(
    tensors: tuple[Tensor, ...], dtype: torch.dtype, fp8: bool, compile_it: bool
) -> dict[str, Callable[[], Function]]:
    """What makes the other sides."""

    def absent(reason: str) -> Callable[[], Function]:
        def make() -> Function:
            raise Unavailable(reason)

        return make

    def compiled_attention() -> Function:
        whole = compiled(append_and_attend, tensors[0].device)
        return lambda: whole(*tensors)

    if fp8:
        return {"others": absent("no e4m3 cache with the append")}
    few, gpu = absent("compiled for some sizes alone"), absent("runs on GPUs alone")
    cuda = tensors[0].is_cuda
    half = dtype != FLOAT32 or not cuda  # on a CPU the peers say themselves why not
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

    def side() -> Tensor:
        append(key, value, key_cache, value_cache, lengths)
        return wrapper.run(query[:, :, 0].contiguous(), (key_cache, value_cache))[:, :, None]

    return side


CACHED_ATTENTION = Operation(
    "cached_attention",
    "A decoding step over a KV cache with its append, by batch, length and dtype: ours and others.",
    0.25,
    sizes,
    problem,
    {"batch": 64, "length": 170},
    Row(
        "(batch, heads, new, head_dim), 2 × (batch, kv_heads, new, head_dim), 2 caches (batch, kv_heads, "
        "max_tokens, head_dim), lengths (batch,) → (batch, heads, new, head_dim)",
        "head_dim 1 to 256; kv_heads divides heads; e4m3 caches from compute capability 8.9; no gradient",
        {"batch": 64},
        {"batch": 64, "length": 339, "dtype": "bfloat16", "cache": "bfloat16"},
        "batch {batch}, {length} tokens",
    ),
)


def layer_sizes(cuda: bool, quick: bool) -> Sizes:
    if quick or not cuda:
        return [{"batch": batch, "length": 323, "compile_it": True} for batch in ((2,) if quick else (1, 64))]
    found: Sizes = [
        {"batch": batch, "length": length, "dtype": BF16, "compile_it": True}
        for batch in (1, 16, 64, 256)
        for length in (17, 170, 339)
    ]
    return [*found, {"batch": 64, "length": 170, "compile_it": True}]


def layer_inputs(device: torch.device, batch: int, length: int, dtype: torch.dtype) -> dict[str, Any]:
    """Those of `layer_norm_attention` by name."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    width, room = HEADS * HEAD_DIM, 340
    caches = random(2, batch, HEADS, room, HEAD_DIM).to(dtype)
    return {
        "parts": random(PARTS, batch, DIM),
        "qkv_weight": random(3 * width, DIM).to(dtype) / 16,
        "qkv_bias": random(3 * width).to(dtype),
        "proj_weight": random(DIM, width).to(dtype) / 16,
        "proj_bias": random(DIM).to(dtype),
        "key_cache": caches[0],
        "value_cache": caches[1],
        "lengths": torch.full((batch,), length, dtype=torch.int32, device=device),
        "norm_weight": random(DIM),
        "norm_bias": random(DIM),
    }


def in_three_launches(x: Tensor, inputs: dict[str, Any]) -> Tensor:
    """The same by `layer_norm_linear` and `cached_attention`, from a stream in one piece."""
    norm = {"norm_weight": inputs["norm_weight"], "norm_bias": inputs["norm_bias"]}
    packed = layer_norm_linear(x, inputs["qkv_weight"], inputs["qkv_bias"], **norm)
    query, key, value = packed.unflatten(1, (3, HEADS, 1, HEAD_DIM)).unbind(1)
    attended = cached_attention(
        query, key, value, inputs["key_cache"], inputs["value_cache"], inputs["lengths"]
    )
    rows = attended.transpose(1, 2).flatten(1)
    return layer_norm_linear(rows, inputs["proj_weight"], inputs["proj_bias"], residual=x)


def whole_layer(
    device: torch.device,
    batch: int,
    length: int,
    dtype: torch.dtype = FLOAT32,
    compile_it: bool = False,
) -> Problem:
    """LayerNorm, attention and residual, from a stream in parts; outputs are compared by their sums."""
    inputs = layer_inputs(device, batch, length, dtype)
    one = inputs | {"parts": inputs["parts"].sum(0)[None]}
    ours: dict[str, Function] = {"ours": lambda: layer_norm_attention(**inputs)}
    if device.type == "cuda":
        order = ("parts", "norm_weight", "norm_bias", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias")
        tensors: Any = [inputs[name] for name in (*order, "key_cache", "value_cache", "lengths")]
        for rows in SEQUENCES:
            lanes = 4096 // HEAD_DIM // rows // (2 if dtype == FLOAT32 else 1)
            ours[f"ours_{rows}_sequences"] = lambda rows=rows, lanes=lanes: launch_layer_norm_attention(  # type: ignore[misc]
                *tensors, scale=HEAD_DIM**-0.5, ROWS=rows, LANES=lanes
            )
    ours["ours_in_three_launches"] = lambda: in_three_launches(one["parts"][0], inputs)
    exact = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    width = HEADS * HEAD_DIM
    read = 2 * batch * width * (length + 1) + 4 * width * DIM
    return Problem(
        {"batch": batch, "length": length, "dtype": dtype_name(dtype)},
        Work(
            8 * batch * width * DIM + 4 * batch * width * (length + 1),
            read * dtype.itemsize + 4 * (PARTS + 1 + HEADS) * batch * DIM,
            dtype_name(dtype),
        ),
        ours,
        layer_norm_attention_reference,
        lambda function: lambda: function(**one),
        compile_it,
        expected=lambda: layer_norm_attention_reference(**exact).sum(0),
        tolerance=1e-5 if dtype == FLOAT32 else 2e-2,
        compared=lambda found: found.sum(0) if found.dim() == 3 else found,
    )


LAYER_NORM_ATTENTION = Operation(
    "layer_norm_attention",
    "LayerNorm + self-attention over a KV cache + residual in one launch: ours, our three launches, PyTorch.",
    0.1,
    layer_sizes,
    whole_layer,
    {"batch": 64, "length": 170},
    Row(
        "(parts, batch, dim), weights, 2 caches (batch, heads, max_tokens, head_dim), lengths (batch,) → "
        "(1 + heads, batch, dim)",
        "one new token a sequence; dim to 1024, 65 parts; head_dim 1 to 256; no gradient",
        {"batch": 64},
        {"batch": 64, "length": 339, "dtype": "bfloat16"},
        "batch {batch}, {length} tokens, dim 256",
    ),
)

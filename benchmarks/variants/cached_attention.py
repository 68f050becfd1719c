"""Variants of the cached-attention kernels: configurations as the launcher chooses them."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.compilation import Variant
from iris_fast.kernels._attention.configuration import configuration
from iris_fast.kernels.cached_attention import _cached_attention_kernel, _merge_splits_kernel

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float8_e4m3fn: "fp8e4nv"}
STRIDES = [
    f"stride_{tensor}_{dimension}"
    for tensor in ("query", "key", "value", "key_cache", "value_cache")
    for dimension in ("batch", "head", "token")
]
INPUTS = ("query", "key", "value")
CACHES = ("key_cache", "value_cache")
SCALES = ("key_scale", "value_scale")
COUNTS = ("rows", "kv_heads", "group", "new", "head_dim", "max_tokens", "tokens_per_block")


def attention(
    name: str,
    dtype: torch.dtype,
    rows: int = 1,
    head_dim: int = 64,
    *,
    cache: torch.dtype | None = None,
    splits: int = 1,
    precision: str = "ieee",
    minimum_architecture: int = 80,
) -> Variant:
    """The kernel for `rows` query rows a kv head, on contiguous tensors."""
    import triton.language as tl

    cache = cache or dtype
    products = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    chosen = configuration(rows, head_dim, dtype.itemsize, cache.itemsize)
    signature: dict[str, str] = dict.fromkeys(INPUTS, f"*{TYPES[dtype]}")
    signature |= dict.fromkeys(CACHES, f"*{TYPES[cache]}")
    signature |= dict.fromkeys(SCALES, "*fp32") | {"lengths": "*i64", "statistics": "*fp32"}
    signature |= {"attended": "*fp32" if splits > 1 else f"*{TYPES[dtype]}"}
    signature |= dict.fromkeys([*COUNTS, *STRIDES], "i32") | {"scale": "fp32"}
    constants: dict[str, Any] = {
        "ROWS": chosen["block_rows"],
        "BLOCK_KEYS": chosen["block_keys"],
        "BLOCK_DIM": max(16, 1 << (head_dim - 1).bit_length()),
        "NUM_SPLITS": splits,
        "FP8": cache == torch.float8_e4m3fn,
        "PRODUCT_DTYPE": products[dtype],
        "PRECISION": precision,
        "STAGES": chosen["num_stages"],
    }
    aligned = [*INPUTS, *CACHES, *SCALES, "lengths", "attended", "statistics", *STRIDES]
    return Variant(
        name,
        _cached_attention_kernel,
        signature,
        constants,
        num_warps=chosen["num_warps"],
        num_stages=chosen["num_stages"],
        divisible=(*aligned, "head_dim") if head_dim % 16 == 0 else tuple(aligned),
        minimum_architecture=minimum_architecture,
    )


def merge(head_dim: int, splits: int) -> Variant:
    """The merging of `splits` parts into bfloat16."""
    pointers = {"partial": "*fp32", "statistics": "*fp32", "attended": "*bf16"}
    return Variant(
        f"merge_{splits}_splits_dim_{head_dim}",
        _merge_splits_kernel,
        pointers | dict.fromkeys(("rows", "head_dim", "num_splits"), "i32"),
        {"BLOCK_SPLITS": splits, "BLOCK_DIM": head_dim},
        divisible=(*pointers, "head_dim"),
    )


BF16, FP32, E4M3 = torch.bfloat16, torch.float32, torch.float8_e4m3fn

VARIANTS = [
    attention("bf16_row", BF16),
    attention("bf16_row_split", BF16, splits=8),
    attention("bf16_row_dim_128", BF16, head_dim=128),
    attention("bf16_row_dim_256", BF16, head_dim=256),
    attention("bf16_row_dim_80", BF16, head_dim=80),
    attention("fp32_row", FP32),
    attention("fp32_row_dim_256", FP32, head_dim=256),
    attention("fp8_row", BF16, cache=E4M3, minimum_architecture=90),
    attention("fp8_row_dim_128", BF16, head_dim=128, cache=E4M3, minimum_architecture=90),
    attention("bf16_17_rows", BF16, 17),
    attention("bf16_4_rows_split", BF16, 4, 128, splits=8),
    attention("bf16_340_rows", BF16, 340),
    attention("bf16_340_rows_dim_128", BF16, 340, 128),
    attention("bf16_340_rows_dim_256", BF16, 340, 256),
    attention("fp32_17_rows", FP32, 17),
    attention("fp32_17_rows_dim_128", FP32, 17, 128),
    attention("fp32_17_rows_dim_256", FP32, 17, 256),
    attention("fp32_17_rows_tf32x3", FP32, 17, precision="tf32x3"),
    attention("fp8_17_rows", BF16, 17, cache=E4M3, minimum_architecture=90),
    attention("fp8_340_rows_dim_128", BF16, 340, 128, cache=E4M3, minimum_architecture=90),
    merge(64, 8),
    merge(256, 32),
]

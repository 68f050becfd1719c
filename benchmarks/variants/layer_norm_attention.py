"""Variants of the LayerNorm-attention kernel: IRIS's layer at batch 1 to 256, in the dtypes it runs in."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.compilation import Variant
from iris_fast.kernels.layer_norm_attention import _layer_norm_attention_kernel, configuration

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
WEIGHTS = ("qkv_weight", "qkv_bias", "proj_weight", "proj_bias", "key_cache", "value_cache")
FLOATS = ("parts", "result", "norm_weight", "norm_bias")
STRIDES = (
    *("stride_part", "stride_row", "stride_qkv_out", "stride_proj_out"),
    *("stride_key_batch", "stride_key_head", "stride_key_token"),
    *("stride_value_batch", "stride_value_head", "stride_value_token"),
)
COUNTS = ("batch", "dim", "heads", "head_dim", "max_tokens")
MULTIPROCESSORS = 132


def variant(
    dtype: str, batch: int, parts: int, precision: str = "ieee", dim: int = 256, head_dim: int = 64
) -> Variant:
    """`fp32` or `bf16` weights and caches, a batch with 4 heads, parts of the stream."""
    chosen = configuration(batch, 4, head_dim, dim, DTYPES[dtype], MULTIPROCESSORS, True)
    constants: dict[str, Any] = {"stride_qkv_dim": 1, "stride_proj_dim": 1, "PARTS": parts}
    constants |= {"HAS_NORM_BIAS": True, "HAS_QKV_BIAS": True, "HAS_PROJ_BIAS": True, "PRECISION": precision}
    constants |= {"PIECES": -(-dim // chosen["BLOCK_K"]), "BLOCK_DIM": 1 << (head_dim - 1).bit_length()}
    constants |= {name: number for name, number in chosen.items() if name != "num_warps"}
    constants |= {"batch": 1} if batch == 1 else {}
    counts = tuple(name for name in COUNTS if name not in constants)
    signature = dict.fromkeys(WEIGHTS, f"*{dtype}") | dict.fromkeys(FLOATS, "*fp32") | {"lengths": "*i32"}
    signature |= dict.fromkeys((*counts, *STRIDES), "i32") | {"eps": "fp32", "scale": "fp32"}
    return Variant(
        f"{dtype}_{precision}_batch_{batch}_{parts}_parts_dim_{dim}_heads_of_{head_dim}",
        _layer_norm_attention_kernel,
        signature=signature,
        constants=constants,
        num_warps=chosen["num_warps"],
        num_stages=chosen["STAGES"],
        divisible=(*WEIGHTS, *FLOATS, *STRIDES, "lengths", "dim", "head_dim"),
    )


VARIANTS = [
    variant("bf16", 64, 17),
    variant("bf16", 64, 1),
    variant("bf16", 1, 17),
    variant("bf16", 32, 17),
    variant("bf16", 256, 9),
    variant("bf16", 64, 17, dim=512, head_dim=128),
    variant("bf16", 64, 33, dim=1024, head_dim=256),
    variant("fp32", 64, 17),
    variant("fp32", 1, 17),
    variant("fp32", 256, 9),
    variant("fp32", 64, 17, "tf32"),
    variant("fp32", 64, 17, "tf32x3"),
]

"""Variants of the LayerNorm-MLP kernel: IRIS's layer at batch 1, 64 and 256, in the dtypes it runs in."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.compilation import Variant
from iris_fast.kernels.layer_norm_mlp import _layer_norm_mlp_kernel, configuration

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
WEIGHTS = ("in_weight", "out_weight", "in_bias", "out_bias")
FLOATS = ("parts", "result", "norm_weight", "norm_bias")
SIZES = ("rows", "dim", "width", "stride_part", "stride_row", "stride_in_out", "stride_out_out")


def variant(
    dtype: str, rows: int, parts: int, precision: str = "ieee", dim: int = 256, width: int = 64
) -> Variant:
    """`fp32` or `bf16` weights, rows of a batch, parts of the stream, `width` units a slice."""
    chosen = configuration(rows, dim, DTYPES[dtype], True)
    constants: dict[str, Any] = {"stride_in_dim": 1, "stride_out_dim": 1, "PARTS": parts}
    constants |= {"HAS_NORM_BIAS": True, "HAS_IN_BIAS": True, "HAS_OUT_BIAS": True, "ACTIVATION": "gelu"}
    constants |= {"PRECISION": precision, "PIECES": -(-dim // chosen["BLOCK_K"]), "SLICE": width}
    constants |= {name: number for name, number in chosen.items() if name != "num_warps"}
    constants |= {"rows": 1} if rows == 1 else {}
    sizes = tuple(name for name in SIZES if name not in constants)
    signature = dict.fromkeys(WEIGHTS, f"*{dtype}") | dict.fromkeys(FLOATS, "*fp32")
    return Variant(
        f"{dtype}_{precision}_{rows}_rows_{parts}_parts_dim_{dim}_slice_{width}",
        _layer_norm_mlp_kernel,
        signature=signature | dict.fromkeys(sizes, "i32") | {"eps": "fp32"},
        constants=constants,
        num_warps=chosen["num_warps"],
        num_stages=chosen["STAGES"],
        divisible=(*WEIGHTS, *FLOATS, *sizes),
    )


VARIANTS = [
    variant("bf16", 64, 5),
    variant("bf16", 1, 5),
    variant("bf16", 4, 5),
    variant("bf16", 256, 5, width=128),
    variant("bf16", 64, 9, dim=512),
    variant("bf16", 64, 17, dim=1024, width=128),
    variant("fp32", 64, 5),
    variant("fp32", 1, 5),
    variant("fp32", 64, 5, "tf32"),
    variant("fp32", 64, 5, "tf32x3"),
]

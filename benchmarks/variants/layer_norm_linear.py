"""Variants of the LayerNorm-linear kernel: IRIS's layers at batch 64 to 1024, in the dtypes they run in."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.compilation import Variant
from iris_fast.kernels.layer_norm_linear import (
    TILES,
    _layer_norm_linear_kernel,
    products_columns,
    statistics_columns,
)

POINTERS = ("x", "weight", "bias", "norm_weight", "norm_bias", "residual", "result")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SIZES = ("rows", "dim", "out", "stride_x_row", "stride_weight_out", "stride_residual_row")


def variant(
    dtype: str, tile: tuple[int, int, int], precision: str = "ieee", dim: int = 256, rows: int | None = None
) -> Variant:
    """`fp32` or `bf16`, a tile of the result; with dim 256 a LayerNorm and GELU, with 1024 a residual.

    `rows` is given where it is 1, which a launch turns into a constant.
    """
    normalise = dim == 256
    block_rows, block_out, num_warps = tile
    constants: dict[str, Any] = dict.fromkeys(("stride_x_dim", "stride_weight_dim", "stride_residual_out"), 1)
    constants |= {"HAS_BIAS": True, "NORMALISE": normalise, "HAS_NORM_BIAS": normalise}
    constants |= {"HAS_RESIDUAL": not normalise, "ACTIVATION": "gelu" if normalise else "identity"}
    constants |= {"PRECISION": precision, "BLOCK_ROWS": block_rows, "BLOCK_OUT": block_out}
    constants |= {"BLOCK_DIM": products_columns(DTYPES[dtype], precision)}
    constants |= {"BLOCK_STATISTICS": statistics_columns(dim, block_rows, num_warps)}
    constants |= {} if rows is None else {"rows": rows}
    sizes = tuple(name for name in SIZES if name not in constants)
    return Variant(
        f"{dtype}_{precision}_{block_rows}x{block_out}_dim_{dim}" + ("" if rows is None else f"_rows_{rows}"),
        _layer_norm_linear_kernel,
        signature=dict.fromkeys(POINTERS, f"*{dtype}") | dict.fromkeys(sizes, "i32") | {"eps": "fp32"},
        constants=constants,
        num_warps=num_warps,
        divisible=(*POINTERS, *sizes),
    )


VARIANTS = [
    *(variant("bf16", tile, dim=dim) for tile in TILES for dim in (256, 1024)),
    *(variant("fp32", tile) for tile in TILES),
    *(variant("fp32", tile, precision) for tile in (TILES[1], TILES[-1]) for precision in ("tf32", "tf32x3")),
    variant("fp32", TILES[-1], rows=1),
]

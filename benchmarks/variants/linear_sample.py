"""Variants of the linear layer with its draw: a head of 512 classes, and one of many."""

from __future__ import annotations

from typing import Any

from benchmarks.compilation import Variant
from iris_fast.kernels._sampling.many_classes import (
    _choose_chunk_kernel,
    _linear_chunk_sample_kernel,
    _linear_chunk_sums_kernel,
)
from iris_fast.kernels.linear_sample import _SPAN, _TILE_CLASSES, _linear_sample_kernel, configuration

MULTIPROCESSORS = 132
OUTPUTS = {
    "seed": "*i64",
    "position": "*i64",
    "tokens": "*i64",
    "log_probs": "*fp32",
    "entropies": "*fp32",
    "chosen": "*i32",
    "thresholds": "*i64",
    "maxima": "*fp32",
    "sums": "*i64",
    "moments": "*fp32",
}
INTEGERS = (
    "x_stride",
    "weight_stride",
    "position_stride",
    "rows",
    "classes",
    "dim",
    "num_chunks",
    "purpose",
    "top_k",
)
NUMBERS = dict.fromkeys(INTEGERS, "i32") | dict.fromkeys(("temperature", "top_p", "scale"), "fp32")


def variant(
    kernel: Any,
    rows: int,
    dtype: str,
    precision: str = "ieee",
    *,
    truncated: bool = False,
    info: bool = False,
    hopper: bool = False,
) -> Variant:
    """What the launcher uses for `rows` rows and 512 classes a program; what it uses on Hopper alone is not hot."""
    block_rows, num_warps, block_dim, num_stages = configuration(
        rows,
        _TILE_CLASSES,
        4 if dtype == "fp32" else 2,
        MULTIPROCESSORS,
        crowded=truncated or info,
        hopper=hopper,
    )
    absent = ["row"] + ([] if info else ["log_probs", "entropies", "moments"])
    constants = dict.fromkeys(absent) | {
        "HAS_BIAS": True,
        "HAS_ROW": False,
        "HAS_TEMPERATURE": False,
        "HAS_TOP_K": truncated,
        "HAS_TOP_P": truncated,
        "WITH_INFO": info,
        "TO_BFLOAT16": precision == "bf16" and dtype != "bf16",
        "PRECISION": "ieee" if precision == "bf16" else precision,
        "BLOCK_ROWS": block_rows,
        "BLOCK_CLASSES": _TILE_CLASSES,
        "BLOCK_DIM": block_dim,
        "BLOCK_CHUNKS": 128,
        "SPAN": _SPAN,
    }
    types = dict.fromkeys(("x", "weight", "bias"), f"*{dtype}") | OUTPUTS | NUMBERS
    names = kernel.arg_names
    options = [name for name, on in {"truncated": truncated, "info": info, "hopper": hopper}.items() if on]
    return Variant(
        "_".join([kernel.__name__.removesuffix("_kernel").strip("_"), str(rows), dtype, precision, *options]),
        kernel,
        signature={name: types[name] for name in names if name not in constants},
        constants={name: value for name, value in constants.items() if name in names},
        num_warps=1 if kernel is _choose_chunk_kernel else num_warps,
        num_stages=num_stages,
        divisible=tuple(
            name
            for name in ("x", "weight", "bias", *OUTPUTS, "x_stride", "weight_stride", "dim")
            if name in names and name not in constants
        ),
        hot=not hopper,  # spills elsewhere
    )


VARIANTS = [
    variant(_linear_sample_kernel, 64, "bf16"),
    variant(_linear_sample_kernel, 64, "bf16", info=True),
    variant(_linear_sample_kernel, 64, "fp32", "ieee"),
    variant(_linear_sample_kernel, 64, "fp32", "tf32"),
    variant(_linear_sample_kernel, 64, "fp32", "tf32x3"),
    variant(_linear_sample_kernel, 64, "fp32", "bf16"),
    variant(_linear_sample_kernel, 64, "bf16", truncated=True, info=True),
    variant(_linear_sample_kernel, 16384, "bf16"),
    variant(_linear_sample_kernel, 16384, "bf16", hopper=True),
    variant(_linear_sample_kernel, 16384, "fp32", "tf32"),
    variant(_linear_sample_kernel, 16384, "fp32", "tf32", hopper=True),
    variant(_choose_chunk_kernel, 64, "bf16", info=True),
    variant(_linear_chunk_sums_kernel, 64, "bf16"),
    variant(_linear_chunk_sums_kernel, 16384, "bf16"),
    variant(_linear_chunk_sums_kernel, 16384, "bf16", hopper=True),
    variant(_linear_chunk_sample_kernel, 64, "bf16"),
    variant(_linear_chunk_sample_kernel, 64, "bf16", info=True),
    variant(_linear_chunk_sample_kernel, 16384, "bf16"),
    variant(_linear_chunk_sample_kernel, 16384, "bf16", hopper=True),
]

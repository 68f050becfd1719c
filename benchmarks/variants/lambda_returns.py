"""Variants of the λ-returns kernel."""

from benchmarks.compilation import Variant
from iris_fast.kernels.lambda_returns import _lambda_returns_kernel

POINTERS = dict.fromkeys(("rewards", "values", "ends", "returns"), "*fp32")
NUMBERS = {"batch": "i32", "time": "i32", "gamma": "fp32", "lambda_": "fp32"}

VARIANTS = [
    Variant(
        f"time_{block_time}",
        _lambda_returns_kernel,
        signature=POINTERS | NUMBERS,
        constants={"BLOCK_BATCH": 256 // block_time, "BLOCK_TIME": block_time},
        num_warps=2,
        divisible=tuple(POINTERS),
    )
    for block_time in (32, 64)
]

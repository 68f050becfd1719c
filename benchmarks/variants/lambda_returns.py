"""Variants of the λ-returns kernels, forward and backward."""

from benchmarks.compilation import Variant
from iris_fast.kernels.lambda_returns import _lambda_returns_backward_kernel, _lambda_returns_kernel

NUMBERS = {"batch": "i32", "time": "i32", "gamma": "fp32", "lambda_": "fp32"}
KERNELS = {
    "forward": (_lambda_returns_kernel, ("rewards", "values", "ends", "returns")),
    "backward": (_lambda_returns_backward_kernel, ("grad", "ends", "grad_rewards", "grad_values")),
}

VARIANTS = [
    Variant(
        f"{name}_time_{block_time}",
        kernel,
        signature=dict.fromkeys(pointers, "*fp32") | NUMBERS,
        constants={"BLOCK_BATCH": 256 // block_time, "BLOCK_TIME": block_time},
        num_warps=2,
        divisible=pointers,
    )
    for name, (kernel, pointers) in KERNELS.items()
    for block_time in (32, 64)
]

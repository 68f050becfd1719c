"""Variants of the GroupNorm-swish kernels: the sizes of IRIS's autoencoder, 32 groups of 2 channels."""

from __future__ import annotations

from benchmarks.compilation import Variant
from iris_fast.kernels.group_norm_swish import (
    _WHOLE,
    _group_norm_swish_backward_kernel,
    _group_norm_swish_kernel,
    choose_block,
)

GROUPS, GROUP_SIZE = 32, 2
BYTES = {"fp32": 4, "bf16": 2}
STATISTICS = dict.fromkeys(("means", "scales"), "*fp32")


def variant(dtype: str, side: int, backward: bool, last: bool = True) -> Variant:
    """A map of side x side positions in `dtype`, channels last or first."""
    area = side * side
    sector = 32 // BYTES[dtype] if last else 1
    whole = _WHOLE // 2 if backward else _WHOLE
    block_groups, block_area, num_warps = choose_block(area, GROUPS, GROUP_SIZE, sector, whole)
    tensors = ("grad", "x", "grad_x") if backward else ("x", "result")
    strides = [f"stride_{name}" for name in tensors]
    # A launch turns a number that is 1 into a constant.
    constants = {f"{stride}_{'channel' if last else 'area'}": 1 for stride in strides}
    constants |= {"area": 1} if area == 1 else {}
    constants |= {"SWISH": True, "WHOLE": block_area >= area, "GROUP_SIZE": GROUP_SIZE}
    constants |= {"GROUPS": block_groups, "GROUP_BLOCK": GROUP_SIZE, "BLOCK_AREA": block_area}
    sizes = [f"{stride}_{axis}" for stride in strides for axis in ("batch", "channel", "area")]
    sizes = [name for name in ("area", "groups", *sizes) if name not in constants]
    pointers = dict.fromkeys((*tensors, "weight", "bias"), f"*{dtype}") | STATISTICS
    pointers |= {"sums": "*fp32"} if backward else {}
    return Variant(
        f"{'backward' if backward else 'forward'}_{dtype}_{side}x{side}_{'last' if last else 'first'}",
        _group_norm_swish_backward_kernel if backward else _group_norm_swish_kernel,
        signature=pointers | dict.fromkeys(sizes, "i32") | ({} if backward else {"eps": "fp32"}),
        constants=constants,
        num_warps=num_warps,
        divisible=(*pointers, *sizes),
    )


VARIANTS = [
    variant(dtype, side, backward)
    for dtype in ("fp32", "bf16")
    for side in (64, 32, 16, 4)
    for backward in (False, True)
]
VARIANTS += [variant("fp32", side, backward, last=False) for side in (32, 1) for backward in (False, True)]

"""Variants of the token-embedding kernel: IRIS's width 256 in a rollout and in training."""

from __future__ import annotations

from benchmarks.compilation import Variant
from iris_fast.kernels.token_embedding import _token_embedding_kernel, choose_block

SIZES = ("count", "time", "dim", "vocab", "more", "num_positions")
STRIDES = ("tokens_row", "tokens_time", "positions_row", "positions_time", "table", "more", "position_table")


def variant(dtype: str, rows: int, time: int, dim: int) -> Variant:
    """One token of each sequence, at a position on the device, or whole sequences from position 0."""
    decoding = time == 1
    block_tokens, block_dim = choose_block(rows * time, dim)
    tables = ("table", "more_table", "position_table")
    signature = dict.fromkeys((*tables, "result"), f"*{dtype}")
    signature |= dict.fromkeys(("tokens", "positions"), "*i64")
    signature |= dict.fromkeys((*SIZES, *(f"stride_{name}" for name in STRIDES)), "i32")
    constants = {"HAS_MORE": True, "HAS_POSITIONS": decoding, "stride_tokens_time": 1}
    constants |= {"time": 1} if decoding else {"stride_positions_time": 1}
    constants |= {"BLOCK_TOKENS": block_tokens, "BLOCK_DIM": block_dim}
    pointers = tuple(name for name, kind in signature.items() if kind.startswith("*"))
    return Variant(
        f"{dtype}_{rows}x{time}x{dim}",
        _token_embedding_kernel,
        signature={name: kind for name, kind in signature.items() if name not in constants},
        constants=constants,
        num_warps=4,
        divisible=(*pointers, "dim", "stride_table", "stride_more", "stride_position_table"),
    )


VARIANTS = [
    variant(dtype, rows, time, dim)
    for dtype in ("fp32", "bf16")
    for rows, time, dim in ((64, 1, 256), (64, 340, 256), (8, 1024, 4096))
]

"""Launch configuration of `cached_attention`: sizes of a program and splits of the cache, from the shapes only."""

from __future__ import annotations

import torch

from ..common.triton import INTERPRETED, num_multiprocessors, tl, triton

_TOKENS_A_SPLIT = 256  # fewer are read in the time that the second launch takes
_MAX_SPLITS = 32


def configuration(rows: int, head_dim: int, query_bytes: int, cache_bytes: int) -> dict[str, int]:
    """Sizes of a program: query rows, tokens a tile, warps and stages of loading.

    For one row, a tile of cached keys is 8 KB (4 KB of e4m3, whose numbers take as many registers as any), and
    with three stages up to 32 KB are in flight in each of several programs on a multiprocessor. The warps are
    those that compile without spilled registers for sm_80, 90 and 100.
    """
    block_dim = max(16, triton.next_power_of_2(head_dim))
    warps = 4 if block_dim <= 64 and query_bytes < 4 and rows <= 32 else 8
    if rows == 1:
        keys = (4096 if cache_bytes < 4 else 2048) // block_dim
        return {"block_rows": 1, "block_keys": min(128, max(16, keys)), "num_warps": warps, "num_stages": 3}
    if query_bytes == 4:  # products in float32 by multiply-and-add take many registers
        keys = 32 if block_dim <= 64 else 16
        return {"block_rows": 16, "block_keys": keys, "num_warps": warps, "num_stages": 2}
    block_rows = min(64 if block_dim <= 64 else 32, max(16, triton.next_power_of_2(rows)))
    keys = 64 if block_dim <= 128 else 32
    return {"block_rows": block_rows, "block_keys": keys, "num_warps": warps, "num_stages": 2}


def product_dtype(dtype: torch.dtype):
    """The dtype of matrix products, as Triton has it: the query's, but the interpreter has none in bfloat16."""
    if dtype == torch.bfloat16:
        return tl.float32 if INTERPRETED else tl.bfloat16
    return tl.float16 if dtype == torch.float16 else tl.float32


def splits(programs: int, max_tokens: int, device: torch.device) -> int:
    """Parts that a sequence's held tokens are read in: more where few programs would leave the device idle.

    It depends on the size of the cache, because the lengths are on the device.
    """
    room = 4 * num_multiprocessors(device) // max(1, programs)
    return max(1, min(_MAX_SPLITS, room, max_tokens // _TOKENS_A_SPLIT))

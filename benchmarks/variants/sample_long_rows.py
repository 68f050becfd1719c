"""Variants of the kernels that draw from long rows, chunk by chunk: for 50,257 classes."""

from __future__ import annotations

from typing import Any

from benchmarks.compilation import Variant
from iris_fast.kernels._sampling.long_rows import (
    _SPAN,
    _chunk_sums_kernel,
    _chunk_threshold_kernel,
    _sample_chunk_kernel,
    search_warps,
)
from iris_fast.kernels._sampling.tiles import tile_warps
from iris_fast.kernels.sample_categorical import _CHUNK_CLASSES

POINTERS = {
    "logits": "*fp32",
    "thresholds": "*i32",
    "maxima": "*fp32",
    "sums": "*i64",
    "moments": "*fp32",
    "seed": "*i64",
    "position": "*i64",
    "tokens": "*i64",
    "log_probs": "*fp32",
    "entropies": "*fp32",
}
NUMBERS = {
    **dict.fromkeys(("row_stride", "position_stride", "classes", "num_chunks", "purpose", "top_k"), "i32"),
    **dict.fromkeys(("temperature", "top_p", "scale"), "fp32"),
}
CONSTANTS = {
    "row": None,
    "HAS_ROW": False,
    "HAS_TOP_K": True,
    "HAS_TOP_P": True,
    "KEY_BITS": 32,
    "BLOCK_CLASSES": _CHUNK_CLASSES,
    "BLOCK_CHUNKS": 16,
    "SPAN": _SPAN,
}


def variant(name: str, kernel: Any, *, truncated: bool, info: bool, temperature: bool, dtype: str) -> Variant:
    """A kernel with those of the types and constants above that it has."""
    constants = CONSTANTS | {"TRUNCATED": truncated, "WITH_INFO": info, "HAS_TEMPERATURE": temperature}
    types = POINTERS | {"logits": f"*{dtype}"}
    absent = [] if truncated else ["thresholds"]
    absent += [] if info else ["moments", "log_probs", "entropies"]
    constants |= dict.fromkeys(absent)
    names, warps = kernel.arg_names, tile_warps(_CHUNK_CLASSES)
    pointers = [name for name in types if name in names and name not in absent]
    return Variant(
        name,
        kernel,
        signature={argument: (types | NUMBERS)[argument] for argument in names if argument not in constants},
        constants={argument: value for argument, value in constants.items() if argument in names},
        num_warps=warps if kernel is _chunk_sums_kernel else search_warps(warps),
        divisible=tuple(pointers),
        hot=kernel
        is not _chunk_threshold_kernel,  # only for truncations of long rows; spills 44 bytes on sm_100
    )


VARIANTS = [
    variant("sums_fp32", _chunk_sums_kernel, truncated=False, info=False, temperature=False, dtype="fp32"),
    variant("sums_bf16", _chunk_sums_kernel, truncated=False, info=False, temperature=False, dtype="bf16"),
    variant("sums_all", _chunk_sums_kernel, truncated=True, info=True, temperature=True, dtype="fp32"),
    variant("sample", _sample_chunk_kernel, truncated=False, info=False, temperature=False, dtype="fp32"),
    variant("sample_all", _sample_chunk_kernel, truncated=True, info=True, temperature=True, dtype="fp32"),
    variant("threshold", _chunk_threshold_kernel, truncated=True, info=True, temperature=True, dtype="fp32"),
]

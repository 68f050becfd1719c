"""Variants of the kernel that draws from rows held in registers."""

from __future__ import annotations

from benchmarks.compilation import Variant
from iris_fast.kernels._sampling.tiles import tile_warps
from iris_fast.kernels.sample_categorical import _SPAN, _sample_tile_kernel, tile_shape

POINTERS = {"seed": "*i64", "position": "*i64", "tokens": "*i64"}
INFO = {"log_probs": "*fp32", "entropies": "*fp32"}
NUMBERS = {
    **dict.fromkeys(("row_stride", "position_stride", "rows", "classes", "purpose", "top_k"), "i32"),
    **dict.fromkeys(("temperature", "top_p", "scale"), "fp32"),
}


def variant(
    classes: int,
    dtype: str = "fp32",
    *,
    temperature: bool = False,
    top_k: bool = False,
    top_p: bool = False,
    info: bool = False,
) -> Variant:
    """What the launcher uses for many rows of `classes` classes."""
    block_rows, block_classes = tile_shape(1024, classes)
    options = [name for name, on in {"k": top_k, "p": top_p, "t": temperature, "info": info}.items() if on]
    absent = {"row": None} if info else {"row": None, "log_probs": None, "entropies": None}
    return Variant(
        "_".join([f"classes_{classes}", dtype, *options]),
        _sample_tile_kernel,
        signature={"logits": f"*{dtype}"} | POINTERS | (INFO if info else {}) | NUMBERS,
        constants=absent
        | {
            "HAS_ROW": False,
            "HAS_TEMPERATURE": temperature,
            "HAS_TOP_K": top_k,
            "HAS_TOP_P": top_p,
            "WITH_INFO": info,
            "KEY_BITS": {"fp32": 32, "bf16": 16}[dtype],
            "BLOCK_ROWS": block_rows,
            "BLOCK_CLASSES": block_classes,
            "SPAN": min(_SPAN, block_classes),
        },
        num_warps=tile_warps(block_rows * block_classes),
        divisible=(
            "logits",
            *POINTERS,
            *(INFO if info else ()),
            *(("row_stride", "classes") if classes % 16 == 0 else ()),
        ),
    )


VARIANTS = [
    variant(3),
    variant(512),
    variant(512, "bf16"),
    variant(512, info=True),
    variant(8192),
    variant(8192, "bf16", temperature=True, info=True),
    variant(512, top_k=True, top_p=True, temperature=True, info=True),
    variant(8192, top_k=True, top_p=True),
]

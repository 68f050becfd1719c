"""Variants of the codebook lookup's kernels: the tiles that the launcher takes for large and small lookups."""

import torch

from benchmarks.compilation import ARCHITECTURES, Variant
from iris_fast.kernels.vq_lookup import (
    SearchConfig,
    _finish_kernel,
    _search_kernel,
    _terms_kernel,
    search_config,
    search_lanes,
)

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
SIDES = [
    (torch.float32, "ieee"),
    (torch.float32, "tf32x3"),
    (torch.float32, "tf32"),
    (torch.bfloat16, "bf16"),
]
ROWS = (16, 64, 1024, 65536)
SIZES = ("rows", "num_codes", "dim", "stride_vectors", "stride_codebook")


def search_variants(dtype: torch.dtype, precision: str, rows: int, dim: int) -> list[Variant]:
    """The search of `rows` vectors as the launcher sets it up on each architecture, named after those."""
    architectures: dict[tuple[SearchConfig, int], list[str]] = {}
    for architecture in ARCHITECTURES:
        num_codes = 8192 if rows == max(ROWS) else 512
        config = search_config(rows, num_codes, dim, dtype, precision, architecture // 10)
        lanes = search_lanes(config, dtype != torch.float32 or precision != "ieee", architecture // 10)
        architectures.setdefault((config, lanes), []).append(str(architecture))
    return [
        search_variant(
            dtype,
            precision,
            dim,
            rows <= config.block_rows,
            config,
            lanes,
            f"rows_{rows}_sm_{'_'.join(names)}",
        )
        for (config, lanes), names in architectures.items()
    ]


def search_variant(
    dtype: torch.dtype, precision: str, dim: int, fused: bool, config: SearchConfig, lanes: int, name: str
) -> Variant:
    """The search with a given configuration; hot where every architecture uses it."""
    pointers = {"vectors": f"*{TYPES[dtype]}", "codebook": f"*{TYPES[dtype]}", "terms": "*fp32"}
    outputs = {"scores": "*fp32", "indices": "*i32", "seconds": "*fp32", "longest": "*fp32"}
    return Variant(
        f"search_{precision}_dim_{dim}_{name}",
        _search_kernel,
        signature=pointers | outputs | dict.fromkeys(SIZES, "i32") | {"tiles_a_split": "i32"},
        constants={
            "COSINE": False,
            "FUSED_TERMS": fused,
            "WHOLE_CHUNKS": dim % config.block_dim == 0,
            "ONE_CHUNK": dim <= config.block_dim,
            "INPUT_PRECISION": precision if dtype == torch.float32 else "ieee",
            "BLOCK_ROWS": config.block_rows,
            "BLOCK_CODES": config.block_codes,
            "BLOCK_DIM": config.block_dim,
            "LANES": lanes,
            "LEVELS": (config.block_codes // lanes).bit_length() - 1,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        divisible=(*pointers, *outputs, *SIZES) if dim % 16 == 0 else (*pointers, *outputs),
        hot=name.endswith("_".join(map(str, ARCHITECTURES))),
    )


VARIANTS = [
    *(variant for side in SIDES for rows in ROWS for variant in search_variants(*side, rows, dim=512)),
    *(variant for side in SIDES for variant in search_variants(*side, 65536, dim=64)),
    *search_variants(torch.float32, "tf32x3", 65536, dim=8),
    Variant(
        "terms",
        _terms_kernel,
        signature={"codebook": "*fp32", "terms": "*fp32"}
        | dict.fromkeys(("num_codes", "dim", "stride_codebook"), "i32"),
        constants={"COSINE": True, "BLOCK_CODES": 16, "BLOCK_DIM": 128},
        divisible=("codebook", "terms", "num_codes", "dim", "stride_codebook"),
    ),
    Variant(
        "finish",
        _finish_kernel,
        signature={
            "scores": "*fp32",
            "split_indices": "*i32",
            "seconds": "*fp32",
            "longest": "*fp32",
            "searched": "*fp32",
            "searched_codes": "*fp32",
            "vectors": "*fp32",
            "codebook": "*fp32",
            "indices": "*i64",
            "quantized": "*fp32",
            "commitment_errors": "*fp32",
            "codebook_errors": "*fp32",
            "splits": "i32",
            **dict.fromkeys((*SIZES, "stride_searched", "stride_searched_codes"), "i32"),
            "error": "fp32",
        },
        constants={
            "COSINE": False,
            "ERRORS": True,
            "BLOCK_ROWS": 8,
            "BLOCK_DIM": 128,
            "NEAR_CODES": 8,
            "NEAR_DIM": 32,
        },
        divisible=(
            *(
                "scores",
                "split_indices",
                "seconds",
                "longest",
                "searched",
                "searched_codes",
                "vectors",
                "codebook",
                "indices",
            ),
            *(
                "quantized",
                "commitment_errors",
                "codebook_errors",
                *SIZES,
                "stride_searched",
                "stride_searched_codes",
            ),
        ),
    ),
]

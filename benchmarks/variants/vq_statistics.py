"""Variants of the kernels that sum vectors by their codewords."""

from benchmarks.compilation import Variant
from iris_fast.kernels.vq_statistics import PIECE, _merge_pieces_kernel, _piece_sums_kernel

INDICES = dict.fromkeys(("order", "starts", "piece_ends", "piece_codes"), "*i64")
FLOATS = dict.fromkeys(("vectors", "weights", "codebook", "partial"), "*fp32")
SIZES = dict.fromkeys(("num_codes", "dim", "stride_vectors", "stride_codebook"), "i32")

VARIANTS = [
    *(
        Variant(
            f"piece_sums{'_weighted' if weighted else ''}",
            _piece_sums_kernel,
            signature=INDICES | FLOATS | SIZES,
            constants={"WEIGHTED": weighted, "PIECE": PIECE, "BLOCK_ROWS": 16, "BLOCK_DIM": 128},
            divisible=(*INDICES, *FLOATS, *SIZES),
        )
        for weighted in (False, True)
    ),
    Variant(
        "merge_pieces",
        _merge_pieces_kernel,
        signature=dict.fromkeys(("partial", "counts", "sums"), "*fp32")
        | dict.fromkeys(("starts", "piece_ends"), "*i64")
        | {"dim": "i32"},
        constants={"PIECE": PIECE, "BLOCK_PIECES": 8, "BLOCK_DIM": 128},
        divisible=("partial", "starts", "piece_ends", "counts", "sums", "dim"),
    ),
]

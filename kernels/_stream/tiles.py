"""Device code of layers on a residual stream in parts: rows of the stream, their LayerNorm, products with weights.

A stream in parts is `(parts, rows, dim)`, and stands for its sum over the first axis, added in that order. In a layer
shared by many blocks, each block writes its share as a separate part, and the next reader of the stream adds them up:
no block waits for another, nothing is added atomically, and the order is fixed.
"""

from __future__ import annotations

from ..common.rounding import dot_of, rounded_to
from ..common.triton import jit, tl


@jit
def stream_rows(
    parts,  # (PARTS, rows, dim); the last dimension is contiguous
    row,  # (ROWS,) which rows to read
    row_mask,  # (ROWS,) of those that there are
    dim,
    stride_part,
    stride_row,
    PARTS: tl.constexpr,
    PIECES: tl.constexpr,  # pieces of BLOCK_K columns that `dim` fits in
    BLOCK_K: tl.constexpr,
):
    """Rows of the stream (PIECES, ROWS, BLOCK_K) float32; zeros where there is none.

    Pieces come first so that a thread holds the same place of each: then `piece` moves nothing between threads.
    """
    offset, inside = _places(row, row_mask, dim, stride_row, PIECES, BLOCK_K)
    total = tl.load(parts + offset, mask=inside, other=0.0).to(tl.float32)
    # Unrolled, so that the parts are all on their way before the first one is added.
    for part in tl.static_range(1, PARTS):
        start = tl.cast(stride_part, tl.int64) * part
        total += tl.load(parts + start + offset, mask=inside, other=0.0).to(tl.float32)
    return total


@jit
def store_stream(
    x,  # (PIECES, ROWS, BLOCK_K) float32
    result,  # pointer to one part (rows, dim), contiguous
    row,
    row_mask,
    dim,
    PIECES: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    offset, inside = _places(row, row_mask, dim, dim, PIECES, BLOCK_K)
    tl.store(result + offset, x, mask=inside)


@jit
def _columns(PIECES: tl.constexpr, BLOCK_K: tl.constexpr):
    """The column of each place (PIECES, 1, BLOCK_K)."""
    return tl.arange(0, PIECES)[:, None, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, None, :]


@jit
def _places(row, row_mask, dim, stride_row, PIECES: tl.constexpr, BLOCK_K: tl.constexpr):
    """Offsets (PIECES, ROWS, BLOCK_K) from the start of a part, and which of them there are."""
    column = _columns(PIECES, BLOCK_K)
    offset = row.to(tl.int64)[None, :, None] * stride_row + column
    return offset, row_mask[None, :, None] & (column < dim)


@jit
def normalised_pieces(
    x,  # (PIECES, ROWS, BLOCK_K) float32, zeros from `dim` on
    norm_weight,  # (dim,), contiguous
    norm_bias,  # (dim,), contiguous; read if HAS_NORM_BIAS
    dim,
    eps,
    HAS_NORM_BIAS: tl.constexpr,
    PIECES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """LN(x) in the same pieces; statistics of two passes."""
    # For each row, though all are alike: the loads of a single one would have the pieces go to different warps,
    # and Triton lays the rows out as it does those.
    column = tl.broadcast_to(_columns(PIECES, BLOCK_K), (PIECES, ROWS, BLOCK_K))
    present = column < dim
    mean = tl.sum(tl.sum(x, axis=2), axis=0) / dim
    centred = tl.where(present, x - mean[None, :, None], 0.0)
    scale = tl.math.rsqrt(tl.sum(tl.sum(centred * centred, axis=2), axis=0) / dim + eps)
    gain = tl.load(norm_weight + column, mask=present, other=0.0).to(tl.float32)
    values = centred * scale[None, :, None] * gain
    if HAS_NORM_BIAS:
        values += tl.load(norm_bias + column, mask=present, other=0.0).to(tl.float32)
    return values


@jit
def piece(
    pieces,  # (PIECES, ROWS, BLOCK_K) float32
    index,
    PIECES: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """One of them, (ROWS, BLOCK_K) in DTYPE: what a loop takes of a tensor that stays in registers."""
    chosen = (tl.arange(0, PIECES) == index)[:, None, None]
    return rounded_to(tl.sum(tl.where(chosen, pieces, 0.0), axis=0), DTYPE)


@jit
def store_rows(
    values,  # (ROWS, BLOCK) float32
    result,  # pointer to one part (rows, dim), contiguous
    row,
    row_mask,
    column,  # (BLOCK,)
    dim,
):
    offset = row.to(tl.int64)[:, None] * dim + column[None, :]
    tl.store(result + offset, values, mask=row_mask[:, None] & (column < dim)[None, :])


@jit
def plus_product(
    total,  # (ROWS, BLOCK_OUT) float32
    values,  # (ROWS, BLOCK_K) in the dtype of the weights
    weight,  # pointers (BLOCK_OUT,) to what column k = 0 of each output has
    weight_mask,  # (BLOCK_OUT,)
    start,  # the first k
    end,  # there are weights for k before it
    stride_k,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`total` + `values` times a tile of weights (BLOCK_K, BLOCK_OUT)."""
    k = start + tl.arange(0, BLOCK_K)
    pointer = weight[None, :] + k.to(tl.int64)[:, None] * stride_k
    weights = tl.load(pointer, mask=(k < end)[:, None] & weight_mask[None, :], other=0.0)
    return dot_of(values, weights, total, PRECISION)


@jit
def plus_bias(
    total,  # (ROWS, BLOCK_OUT) float32
    bias,  # (out,), contiguous; read if HAS_BIAS
    column,  # (BLOCK_OUT,)
    mask,  # (BLOCK_OUT,)
    HAS_BIAS: tl.constexpr,
):
    if HAS_BIAS:
        total += tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)[None, :]
    return total

"""The nearest codeword of each vector, without the distance matrix.

argmin_k ‖x - c_k‖² = argmin_k (‖c_k‖² / 2 - x·c_k)   and   argmax_k x·c_k / (‖x‖ ‖c_k‖) = argmin_k -x·c_k / ‖c_k‖

(van den Oord et al., "Neural Discrete Representation Learning", arXiv 1711.00937, section 3.1.) Vectors are
(rows, dim), the codebook (num_codes, dim). Four steps, none of which waits for the host:
1. *terms*: ‖c‖² / 2, or 1 / ‖c‖, a codeword (where few rows are looked up the search computes them on its way);
2. *search*: a program holds a tile of rows and goes through a range of codewords tile by tile; products by
   `tl.dot` over chunks of dim, the running minima and their indices in registers. With few rows the codewords are
   split over programs, so that every multiprocessor has work;
3. *finish*: the minimum over the splits in their order (if the second-best score is within rounding of it, the
   nearest of all codewords by differences in float64); the codeword's row; and (x - c)² on request;
4. backward: straight through to the vectors; the codebook's gradient by `vq_statistics`, in a fixed order.

Work: 2 · rows · num_codes · dim operations. Bytes: vectors and quantized once each, the codebook once a tile of rows
(it stays in the L2 cache). So a large lookup is bound by the rate of its products, whose dense peak on an H200 is
bfloat16 990, tf32 495, tf32x3 165 and float32 without matrix units 67 TFLOP/s: one million rows of 512 against 8192
codewords (8.8 TFLOP) cannot take less than 9, 18, 53 and 131 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ._vq.exact import nearest_by_products, nearest_directly, product_error, score_limit_device
from ._vq.tiles import (
    Precision,
    SearchConfig,
    least_of_lanes,
    least_of_tile,
    search_config,
    search_lanes,
    search_splits,
)
from .common.arguments import with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.spec import Benchmark, Call, Derivatives, Launch, Numbers, OpSpec, Problem, Row, Sizes
from .common.triton import INTERPRETED, jit, num_multiprocessors, on_its_device, require_triton, tl, triton
from .vq_statistics import _vq_statistics, vq_statistics

Distance = Literal["euclidean", "cosine"]

_REFERENCE_SCORES = 2**24  # scores that the plain PyTorch path holds at a time: 64 MiB in float32


@jit
def _terms_kernel(
    codebook,  # (num_codes, dim) float32, bfloat16 or float16
    terms,  # out: (num_codes,) float32: ‖c‖² / 2, or 1 / ‖c‖ with COSINE
    num_codes,
    dim,
    stride_codebook,  # elements between codewords
    COSINE: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    code = tl.program_id(0) * BLOCK_CODES + tl.arange(0, BLOCK_CODES)
    start = codebook + code.to(tl.int64)[:, None] * stride_codebook
    squares = tl.zeros((BLOCK_CODES, BLOCK_DIM), tl.float32)
    for chunk in range(0, tl.cdiv(dim, BLOCK_DIM)):
        feature = chunk * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
        mask = (code < num_codes)[:, None] & (feature < dim)[None, :]
        c = tl.load(start + feature[None, :], mask=mask, other=0.0).to(tl.float32)
        squares += c * c
    tl.store(terms + code, _term(tl.sum(squares, axis=1), COSINE), mask=code < num_codes)


@jit
def _term(squared_norm, COSINE: tl.constexpr):
    """The term of a codeword's score besides its product."""
    if COSINE:
        return 1.0 / tl.maximum(tl.sqrt(squared_norm), 1e-12)
    else:
        return 0.5 * squared_norm


@jit
def _squared_norm(c):
    wide = c.to(tl.float32)
    return tl.sum(wide * wide, axis=1)


@jit
def _chunk(start, mask, chunk, dim, WHOLE_CHUNKS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """BLOCK_DIM numbers of each row from its `start` (rows, 1), zeros past the end."""
    feature = chunk * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    if WHOLE_CHUNKS:
        return tl.load(start + feature[None, :], mask=mask[:, None], other=0.0)
    else:
        return tl.load(start + feature[None, :], mask=mask[:, None] & (feature < dim)[None, :], other=0.0)


@jit
def _search_kernel(
    vectors,  # (rows, dim) float32, bfloat16 or float16
    codebook,  # (num_codes, dim) of the same type
    terms,  # (num_codes,) float32; not read with FUSED_TERMS
    scores,  # out: (splits, rows) float32: the least score of each row in each range of codewords
    indices,  # out: (splits, rows) int32: its codeword, the lowest on ties
    seconds,  # out: (splits, rows) float32: the second least score
    longest,  # out: (splits,) float32: ‖c‖² / 2 of the longest codeword of each range; 0 with COSINE
    rows,
    num_codes,
    dim,
    tiles_a_split,  # tiles of BLOCK_CODES codewords in each range
    stride_vectors,  # elements between vectors
    stride_codebook,  # elements between codewords
    COSINE: tl.constexpr,
    FUSED_TERMS: tl.constexpr,
    WHOLE_CHUNKS: tl.constexpr,  # whether dim is a multiple of BLOCK_DIM
    ONE_CHUNK: tl.constexpr,  # whether dim is at most BLOCK_DIM: then the rows are read once and stay
    INPUT_PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    LANES: tl.constexpr,  # running minima of a row; each covers every LANES-th codeword
    LEVELS: tl.constexpr,  # log2(BLOCK_CODES / LANES)
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = row < rows
    row_start = vectors + row[:, None] * stride_vectors
    if ONE_CHUNK:
        x = _chunk(row_start, row_mask, 0, dim, WHOLE_CHUNKS, BLOCK_DIM)
    best = tl.full((BLOCK_ROWS, LANES), float("inf"), tl.float32)
    best_code = tl.zeros((BLOCK_ROWS, LANES), tl.int32)
    second = best
    largest = tl.zeros((BLOCK_CODES,), tl.float32)
    product = tl.zeros((BLOCK_ROWS, BLOCK_CODES), tl.float32)
    squares = tl.zeros((BLOCK_CODES,), tl.float32)
    first_tile = tl.program_id(1) * tiles_a_split
    last_tile = tl.minimum(first_tile + tiles_a_split, tl.cdiv(num_codes, BLOCK_CODES))
    # One loop over the chunks of all tiles, so that the next tile is loaded while this one's minimum is taken.
    chunks = tl.cdiv(dim, BLOCK_DIM)
    tile, chunk = first_tile - 1, chunks - 1
    for _ in range(0, (last_tile - first_tile) * chunks):
        chunk = tl.where(chunk == chunks - 1, 0, chunk + 1)
        tile = tl.where(chunk == 0, tile + 1, tile)
        code = tile * BLOCK_CODES + tl.arange(0, BLOCK_CODES)
        code_mask = code < num_codes
        code_start = codebook + code.to(tl.int64)[:, None] * stride_codebook
        if not ONE_CHUNK:
            x = _chunk(row_start, row_mask, chunk, dim, WHOLE_CHUNKS, BLOCK_DIM)
        c = _chunk(code_start, code_mask, chunk, dim, WHOLE_CHUNKS, BLOCK_DIM)
        product = tl.dot(x, tl.trans(c), product, input_precision=INPUT_PRECISION)
        if FUSED_TERMS:
            squares += _squared_norm(c)
        if ONE_CHUNK or chunk == chunks - 1:
            # Past the last codeword a term is infinite, and so is the score, or no number.
            if FUSED_TERMS:
                term = tl.where(code_mask, _term(squares, COSINE), float("inf"))
            else:
                term = tl.load(terms + code, mask=code_mask, other=float("inf"))
            score = -product * term[None, :] if COSINE else term[None, :] - product
            least, offset, runner_up = least_of_tile(score, LANES, LEVELS)
            better = least < best  # never of a NaN
            second = tl.minimum(tl.minimum(second, runner_up), tl.maximum(best, least))
            if not COSINE:
                largest = tl.maximum(largest, tl.where(code_mask & (term == term), term, 0.0))
            best = tl.where(better, least, best)
            best_code = tl.where(better, tile * BLOCK_CODES + offset, best_code)
            product = tl.zeros((BLOCK_ROWS, BLOCK_CODES), tl.float32)
            squares = tl.zeros((BLOCK_CODES,), tl.float32)
    least, found, runner_up = least_of_lanes(best, best_code, second, LANES)
    offset = tl.program_id(1).to(tl.int64) * rows + row
    tl.store(scores + offset, least, mask=row_mask)
    tl.store(indices + offset, found, mask=row_mask)
    tl.store(seconds + offset, runner_up, mask=row_mask)
    if tl.program_id(0) == 0:
        tl.store(longest + tl.program_id(1), tl.max(largest, axis=0))


@jit
def _nearest_in_float64(
    x,  # of the search
    c,  # of the search
    row,  # (BLOCK_ROWS,) int64
    row_mask,  # (BLOCK_ROWS,)
    num_codes,
    dim,
    stride_x,
    stride_c,
    COSINE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """The nearest of all codewords (BLOCK_ROWS,) int32 by differences; 0 where no distance is finite."""
    best = tl.full((BLOCK_ROWS,), float("inf"), tl.float64)
    index = tl.zeros((BLOCK_ROWS,), tl.int32)
    for tile in range(0, tl.cdiv(num_codes, BLOCK_CODES)):
        code = tile * BLOCK_CODES + tl.arange(0, BLOCK_CODES)
        code_mask = code < num_codes
        total = tl.zeros((BLOCK_ROWS, BLOCK_CODES), tl.float64)
        squares = tl.zeros((BLOCK_CODES,), tl.float64)
        for chunk in range(0, tl.cdiv(dim, BLOCK_DIM)):
            xs = _chunk(x + row[:, None] * stride_x, row_mask, chunk, dim, False, BLOCK_DIM).to(tl.float64)
            start = c + code.to(tl.int64)[:, None] * stride_c
            cs = _chunk(start, code_mask, chunk, dim, False, BLOCK_DIM).to(tl.float64)
            if COSINE:
                total -= tl.sum(xs[:, None, :] * cs[None, :, :], axis=2)
                squares += tl.sum(cs * cs, axis=1)
            else:
                difference = xs[:, None, :] - cs[None, :, :]
                total += tl.sum(difference * difference, axis=2)
        if COSINE:
            total = total / tl.maximum(tl.sqrt(squares), 1e-12)[None, :]
        total = tl.where((tl.abs(total) < float("inf")) & code_mask[None, :], total, float("inf"))
        least = tl.min(total, axis=1)
        first = tl.min(tl.where(total == least[:, None], code[None, :], 2147483647), axis=1)
        index = tl.where(least < best, first, index)
        best = tl.minimum(least, best)
    return index


@jit
def _finish_kernel(
    scores,  # (splits, rows) float32
    split_indices,  # (splits, rows) int32
    seconds,  # (splits, rows) float32
    longest,  # (splits,) float32
    searched,  # (rows, dim): the vectors as the search had them
    searched_codes,  # (num_codes, dim)
    vectors,  # (rows, dim) any float dtype; not read unless ERRORS
    codebook,  # (num_codes, dim) any float dtype
    quantized,  # out: (rows, dim) contiguous, dtype of the vectors
    indices,  # out: (rows,) int64
    commitment_errors,  # out: (rows,) float32: mean (x - c)²; not written unless ERRORS
    codebook_errors,  # out: (rows,) float32: the same
    rows,
    num_codes,
    dim,
    splits,
    stride_searched,  # elements between rows of `searched`
    stride_searched_codes,
    stride_vectors,  # elements between vectors
    stride_codebook,  # elements between codewords
    error,  # of the difference of two scores, relative to the magnitude of their terms
    COSINE: tl.constexpr,
    ERRORS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    NEAR_CODES: tl.constexpr,  # the tile of codewords that differences are taken from
    NEAR_DIM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = row < rows
    best = tl.full((BLOCK_ROWS,), float("inf"), tl.float32)
    second = best
    index = tl.zeros((BLOCK_ROWS,), tl.int32)
    longest_square = tl.full((), 0.0, tl.float32)
    offset = row
    for split in range(0, splits):
        score = tl.load(scores + offset, mask=row_mask, other=float("inf"))
        candidate = tl.load(split_indices + offset, mask=row_mask, other=0)
        runner_up = tl.load(seconds + offset, mask=row_mask, other=float("inf"))
        longest_square = tl.maximum(longest_square, 2.0 * tl.load(longest + split))
        second = tl.minimum(tl.minimum(second, runner_up), tl.maximum(best, score))
        index = tl.where(score < best, candidate, index)
        best = tl.minimum(score, best)
        offset += rows
    squares = tl.zeros((BLOCK_ROWS, BLOCK_DIM), tl.float32)
    for chunk in range(0, tl.cdiv(dim, BLOCK_DIM)):
        part = _chunk(searched + row[:, None] * stride_searched, row_mask, chunk, dim, False, BLOCK_DIM).to(
            tl.float32
        )
        squares += part * part
    limit = score_limit_device(best, tl.sum(squares, axis=1), longest_square, error, COSINE)
    certain = (second > limit) & (tl.abs(limit) < float("inf"))
    doubtful = row_mask & ~certain
    if tl.max(doubtful.to(tl.int32), axis=0) > 0:
        nearest = _nearest_in_float64(
            searched,
            searched_codes,
            row,
            row_mask,
            num_codes,
            dim,
            stride_searched,
            stride_searched_codes,
            COSINE,
            BLOCK_ROWS,
            NEAR_CODES,
            NEAR_DIM,
        )
        index = tl.where(doubtful, nearest, index)
    tl.store(indices + row, index.to(tl.int64), mask=row_mask)
    row_error = tl.zeros((BLOCK_ROWS,), tl.float32)
    for chunk in range(0, tl.cdiv(dim, BLOCK_DIM)):
        feature = chunk * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
        mask = row_mask[:, None] & (feature < dim)[None, :]
        c = tl.load(
            codebook + index.to(tl.int64)[:, None] * stride_codebook + feature[None, :], mask=mask, other=0.0
        )
        quantized_value = c.to(quantized.dtype.element_ty)
        tl.store(quantized + row[:, None] * dim + feature[None, :], quantized_value, mask=mask)
        if ERRORS:
            x = tl.load(vectors + row[:, None] * stride_vectors + feature[None, :], mask=mask, other=0.0)
            difference = x.to(tl.float32) - c.to(tl.float32)
            row_error += tl.sum(difference * difference, axis=1)
    if ERRORS:
        row_error = row_error / dim
        tl.store(commitment_errors + row, row_error, mask=row_mask)
        tl.store(codebook_errors + row, row_error, mask=row_mask)


@on_its_device
def launch_vq_lookup(
    vectors: Tensor,
    codebook: Tensor,
    distance: Distance = "euclidean",
    precision: Precision = "ieee",
    errors: bool = False,
    *,
    config: SearchConfig | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches the kernels on `vectors` (rows, dim) and `codebook` (num_codes, dim), float32, bfloat16 or float16.

    Returns quantized (rows, dim), indices (rows,) and the mean squared error of each row twice, of no rows unless
    `errors`. `config` and `splits` are `search_config`'s and `search_splits`' where not given.
    """
    require_triton("vq_lookup", vectors, codebook)
    vectors, codebook = (t if t.stride(1) == 1 else t.contiguous() for t in (vectors, codebook))
    (rows, dim), num_codes, device = vectors.shape, len(codebook), vectors.device
    outputs = _new_outputs(vectors, errors)
    if rows == 0:
        return outputs
    dtype = _search_dtype(vectors, codebook, precision)
    if dtype == torch.float64:
        raise TypeError(
            "the Triton kernel of vq_lookup takes no float64: call vq_lookup, which uses PyTorch for it"
        )
    x, c = vectors.to(dtype), codebook.to(dtype)
    if INTERPRETED:  # its `tl.dot` takes the bits of bfloat16 for integers
        x, c = x.float(), c.float()
    capability = torch.cuda.get_device_capability(device)[0] if vectors.is_cuda else 9
    multiprocessors = num_multiprocessors(device)
    config = config or search_config(rows, num_codes, dim, dtype, precision, capability, multiprocessors)
    row_tiles, code_tiles = triton.cdiv(rows, config.block_rows), triton.cdiv(num_codes, config.block_codes)
    slots = multiprocessors * config.programs
    splits = splits or search_splits(row_tiles, code_tiles, slots)
    lanes = search_lanes(config, dtype != torch.float32 or precision != "ieee", capability)
    scores, seconds = torch.empty((2, splits, rows), dtype=torch.float32, device=device).unbind()
    longest = torch.empty(splits, dtype=torch.float32, device=device)
    found = torch.empty((splits, rows), dtype=torch.int32, device=device)
    cosine, fused = distance == "cosine", row_tiles == 1
    terms = scores if fused else torch.empty(num_codes, dtype=torch.float32, device=device)
    block = min(128, triton.next_power_of_2(dim))
    if not fused:
        _terms_kernel[(triton.cdiv(num_codes, 16),)](c, terms, num_codes, dim, c.stride(0), cosine, 16, block)
    _search_kernel[(row_tiles, splits)](
        x,
        c,
        terms,
        scores,
        found,
        seconds,
        longest,
        rows,
        num_codes,
        dim,
        triton.cdiv(code_tiles, splits),
        x.stride(0),
        c.stride(0),
        COSINE=cosine,
        FUSED_TERMS=fused,
        WHOLE_CHUNKS=dim % config.block_dim == 0,
        ONE_CHUNK=dim <= config.block_dim,
        INPUT_PRECISION="ieee" if dtype != torch.float32 else precision,
        BLOCK_ROWS=config.block_rows,
        BLOCK_CODES=config.block_codes,
        BLOCK_DIM=config.block_dim,
        LANES=lanes,
        LEVELS=(config.block_codes // lanes).bit_length() - 1,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    _finish_kernel[(triton.cdiv(rows, 8),)](
        scores,
        found,
        seconds,
        longest,
        x,
        c,
        vectors,
        codebook,
        *outputs,
        rows,
        num_codes,
        dim,
        splits,
        x.stride(0),
        c.stride(0),
        vectors.stride(0),
        codebook.stride(0),
        2 * (product_error(dim, torch.finfo(torch.float32).eps) + (2**-20 if precision == "tf32x3" else 0)),
        COSINE=cosine,
        ERRORS=errors,
        BLOCK_ROWS=8,
        BLOCK_DIM=block,
        NEAR_CODES=256 if INTERPRETED else 8,  # the interpreter takes as long for any tile
        NEAR_DIM=block if INTERPRETED else min(block, 32),
    )
    return outputs


def _new_outputs(vectors: Tensor, errors: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, dtype = vectors.shape[0], torch.promote_types(vectors.dtype, torch.float32)
    return (
        vectors.new_empty(vectors.shape),
        vectors.new_empty(rows, dtype=torch.int64),
        vectors.new_empty(rows if errors else 0, dtype=dtype),
        vectors.new_empty(rows if errors else 0, dtype=dtype),
    )


def _search_dtype(vectors: Tensor, codebook: Tensor, precision: str) -> torch.dtype:
    """The type that products are formed from; they are added up in float32, or float64 where this is."""
    promoted = torch.promote_types(vectors.dtype, codebook.dtype)
    return torch.bfloat16 if precision == "bf16" and promoted != torch.float64 else promoted


@operator("vq_lookup")
def _vq_lookup(
    vectors: Tensor,  # (rows, dim)
    codebook: Tensor,  # (num_codes, dim)
    distance: str,
    precision: str,
    errors: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # quantized, indices, and errors of each row, twice
    return _plain_lookup(vectors, codebook, distance, precision, errors)


@_vq_lookup.register_kernel("cuda")
def _vq_lookup_cuda(vectors: Tensor, codebook: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = _plain_lookup if torch.float64 in (vectors.dtype, codebook.dtype) else launch_vq_lookup
    return run(vectors, codebook, *others)


@_vq_lookup.register_fake
def _vq_lookup_fake(
    vectors: Tensor, codebook: Tensor, distance: str, precision: str, errors: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _new_outputs(vectors, errors)


def _setup_context(ctx, inputs, output) -> None:
    vectors, codebook, _, _, ctx.errors = inputs
    ctx.save_for_backward(vectors, codebook, output[1])
    # What goes to the vectors alone, or to the codebook alone, has no gradient where these have none.
    quantized, indices, commitment, error = output
    without = (quantized, commitment) if not ctx.needs_input_grad[0] else ()
    ctx.mark_non_differentiable(indices, *without, *((error,) if not ctx.needs_input_grad[1] else ()))
    ctx.set_materialize_grads(False)


def _backward(
    ctx, grad_quantized: Tensor | None, _, grad_commitment: Tensor | None, grad_error: Tensor | None
):
    """Straight through to the vectors; the two errors' gradients 2 (x - c) / dim to vectors and -that to codes."""
    vectors, codebook, indices = ctx.saved_tensors
    grad_vectors, grad_codebook = grad_quantized, None
    if ctx.errors and grad_commitment is not None and ctx.needs_input_grad[0]:
        difference = vectors.to(grad_commitment.dtype) - codebook[indices].to(grad_commitment.dtype)
        through = (difference * (2.0 / vectors.shape[1] * grad_commitment)[:, None]).to(vectors.dtype)
        grad_vectors = through if grad_vectors is None else grad_vectors + through
    if ctx.errors and grad_error is not None and ctx.needs_input_grad[1]:
        weights = -2.0 / vectors.shape[1] * grad_error
        sums = _vq_statistics(vectors, indices, codebook.shape[0], weights, codebook)[1]
        grad_codebook = sums.to(codebook.dtype)
    return grad_vectors, grad_codebook, None, None, None


_vq_lookup.register_autograd(_backward, setup_context=_setup_context)


class VQLookup(NamedTuple):
    """The result of `vq_lookup`; fields that were not requested are None."""

    indices: Tensor
    """(…) int64, the leading shape of the vectors."""
    quantized: Tensor
    """(…, dim), rows of the codebook in the vectors' dtype; its gradient goes to the vectors as it is."""
    commitment_loss: Tensor | None = None
    """Mean (z - sg(z_q))²: a scalar, or (…) with `reduction="rows"`. Its gradient goes to the vectors."""
    codebook_loss: Tensor | None = None
    """Mean (sg(z) - z_q)²: the same number. Its gradient goes to the codebook."""
    counts: Tensor | None = None
    """(num_codes,): how many vectors chose each codeword."""
    sums: Tensor | None = None
    """(num_codes, dim): the sums of those vectors, without gradient."""


@with_checked_types
def vq_lookup(
    vectors: Tensor,
    codebook: Tensor,
    *,
    distance: Distance = "euclidean",
    precision: Precision = "ieee",
    commitment: bool = False,
    reduction: Literal["mean", "rows"] = "mean",
    statistics: bool = False,
) -> VQLookup:
    """The codeword of `codebook` (num_codes, dim) nearest to each of `vectors` (…, dim), the lowest index on ties.

    `distance` is Euclidean, or cosine (neither side need be normalised; a norm below 1e-12 counts as 1e-12).
    `precision` of the products of float32 numbers on CUDA: `ieee` float32; `tf32x3` as exact up to the last bits,
    on matrix units; `tf32` and `bf16` round both sides to 11 and 8 bits, so codewords with nearly equal distances may
    be confused. bfloat16 and float16 inputs always use matrix units, whose products are exact; sums are in float32.
    Float64 is computed in float64, by PyTorch. On a CPU all but `bf16` are `ieee`.

    With `commitment` the two losses of arXiv 1711.00937 are found in the same pass (`reduction` "mean" over
    everything, or a mean over dim for each vector), with `statistics` the counts and sums that `ema_update` takes.
    Gradients repeat bit by bit.

    The nearest codeword is the one by distances in float64, even for vectors far from the origin and codewords close
    to each other: products select candidates, and differences decide (with `tf32` on CUDA only if scores are equal to
    float32). A vector with a NaN or an infinity gets index 0; a codeword with one is chosen only if there is no
    other.

    Raises ValueError for an invalid shape or name, TypeError for an invalid dtype.
    """
    rows = _checked(vectors, codebook, distance, precision, reduction)
    lead = vectors.shape[:-1]
    quantized, indices, *errors = _vq_lookup(rows, codebook, distance, precision, commitment)
    losses: list[Tensor | None] = [None, None]
    if commitment:
        losses = [error.mean() if reduction == "mean" else error.view(lead) for error in errors]
    statistic = vq_statistics(rows, indices, codebook.shape[0]) if statistics else (None, None)
    return VQLookup(indices.view(lead), quantized.view(vectors.shape), *losses, *statistic)


@with_checked_types
@in_exact_float32
def vq_lookup_reference(
    vectors: Tensor,
    codebook: Tensor,
    *,
    distance: Distance = "euclidean",
    precision: Precision = "ieee",
) -> VQLookup:
    """`vq_lookup` with mean losses in plain PyTorch, differentiated by autograd."""
    rows = _checked(vectors, codebook, distance, precision, "mean")
    indices = _plain_search(rows.detach(), codebook.detach(), distance, precision).view(vectors.shape[:-1])
    chosen, z = codebook[indices], vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    quantized = chosen.detach().to(vectors.dtype) + (vectors - vectors.detach())
    commitment_loss = (z - chosen.detach()).square().mean()
    return VQLookup(indices, quantized, commitment_loss, (z.detach() - chosen).square().mean())


def _checked(vectors: Tensor, codebook: Tensor, distance: str, precision: str, reduction: str) -> Tensor:
    """The vectors as (rows, dim)."""
    for name, value, known in (
        ("distance", distance, get_args(Distance)),
        ("precision", precision, get_args(Precision)),
        ("reduction", reduction, ("mean", "rows")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if (
        codebook.dim() != 2
        or vectors.dim() < 1
        or vectors.shape[-1] != codebook.shape[1]
        or not codebook.numel()
    ):
        raise ValueError(
            "vectors must be (…, dim) and codebook (num_codes, dim) with at least one codeword, got "
            f"{tuple(vectors.shape)} and {tuple(codebook.shape)}"
        )
    if not vectors.is_floating_point() or not codebook.is_floating_point():
        raise TypeError(
            f"vectors and codebook must be real numbers, got {vectors.dtype} and {codebook.dtype}"
        )
    if codebook.device != vectors.device:
        raise ValueError(
            f"codebook must be on the device of vectors, {vectors.device}, got {codebook.device}"
        )
    return vectors.reshape(-1, vectors.shape[-1])


def _plain_lookup(
    vectors: Tensor, codebook: Tensor, distance: str, precision: str, errors: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    indices = _plain_search(vectors, codebook, distance, precision)
    quantized = codebook.index_select(0, indices)
    outputs = _new_outputs(vectors, errors)
    if errors:
        difference = vectors.to(outputs[2].dtype) - quantized.to(outputs[2].dtype)
        outputs[2].copy_(difference.square_().mean(dim=1))
        outputs[3].copy_(outputs[2])
    return quantized.to(vectors.dtype), indices, outputs[2], outputs[3]


def _plain_search(vectors: Tensor, codebook: Tensor, distance: str, precision: str) -> Tensor:
    """Indices (rows,) by products in pieces of rows, each with at most `_REFERENCE_SCORES` scores."""
    dtype = _search_dtype(vectors, codebook, precision)
    wide = torch.promote_types(dtype, torch.float32)
    vectors, codebook = vectors.to(dtype).to(wide), codebook.to(dtype).to(wide)
    search = nearest_by_products if vectors.is_cpu else nearest_directly
    return search(vectors, codebook, distance == "cosine", max(1, _REFERENCE_SCORES // len(codebook)))


# (rows, dim, num_codes): small and large, those of the paper's tokenizer (16 tokens a frame) among them
_GPU_SIZES = (
    (1, 8, 16),
    (16, 512, 512),
    (1024, 512, 512),
    (4096, 512, 512),
    (16384, 512, 512),
    (65536, 64, 1024),
    (65536, 8, 1024),
    (65536, 256, 8192),
    (262144, 512, 8192),
)
_CPU_SIZES = ((16, 512, 512), (1024, 512, 512), (4096, 64, 1024))
_COMPILED_ROWS = (1024, 16384)  # each takes seconds to compile
_MOST_DISTANCES = 2**29  # 2 GiB of float32: larger sizes are ours alone


def _calls(device: str) -> dict[str, Call]:
    def lookup(vectors: Tensor, codebook: Tensor) -> VQLookup:
        return vq_lookup(vectors, codebook, commitment=True, statistics=True)

    def cosine(vectors: Tensor, codebook: Tensor) -> VQLookup:
        return vq_lookup(vectors, codebook, distance="cosine", reduction="rows")

    numbers = Numbers(device, alike=True)
    return {
        "vq_lookup": Call(lookup, (numbers.normal(4, 5, 8), numbers.normal(16, 8)), {0: 0}),
        "vq_lookup_cosine": Call(cosine, (numbers.normal(6, 8), numbers.normal(12, 8)), {0: 0}),
    }


def _arguments() -> dict[str, dict[str, Any]]:
    given = {"vectors": torch.linspace(-1, 1, 10).view(2, 5), "codebook": torch.eye(5)}
    return {"vq_lookup": {**given, "commitment": True, "statistics": True}}


def _launches(architecture: int) -> Iterator[Launch]:
    def lookup(rows: int, dim: int, num_codes: int, precision: Any, dtype: torch.dtype) -> Callable[[], Any]:
        # Memory that nothing writes to is not taken.
        vectors, codebook = torch.empty(rows, dim, dtype=dtype), torch.empty(num_codes, dim, dtype=dtype)
        return partial(launch_vq_lookup, vectors, codebook, "euclidean", precision, True)

    # Where the codeword is chosen, 8 to 12 bytes are spilled for more blocks a multiprocessor.
    papers = [(16, 512, 512), (64, 512, 512), (1024, 512, 512), (65536, 512, 8192), (65536, 64, 8192)]
    for size in [*papers, (1, 1, 1), (1, 8, 16), (1, 512, 1), (5000, 512, 8192), (4096, 33, 70)]:
        for precision in get_args(Precision):
            yield Launch(f"{size} {precision}", lookup(*size, precision, torch.float32), size in papers, 16)
    for size in papers:
        yield Launch(f"{size} of bfloat16", lookup(*size, "ieee", torch.bfloat16), True, 16)
    yield Launch("a million of bfloat16", lookup(2**20, 512, 8192, "ieee", torch.bfloat16))
    half = torch.zeros(70, 40, dtype=torch.float16)
    yield Launch("float16 cosine", partial(launch_vq_lookup, half, half, "cosine"))
    yield Launch(
        "bfloat16", partial(launch_vq_lookup, half.bfloat16(), half.bfloat16(), "euclidean", "ieee", True)
    )
    yield Launch("two dtypes", partial(launch_vq_lookup, half, half.float(), "cosine", "tf32"))


def _derivatives() -> Derivatives:
    def ours(vectors: Tensor, codebook: Tensor) -> list:
        found = vq_lookup(vectors, codebook, commitment=True, reduction="rows")
        return [found.quantized, found.commitment_loss, found.codebook_loss]

    def plain(vectors: Tensor, codebook: Tensor) -> list[Tensor]:
        indices = torch.cdist(vectors.detach().double(), codebook.detach().double()).argmin(-1)
        chosen = codebook[indices]
        wide = torch.promote_types(vectors.dtype, torch.float32)
        of_vectors = (vectors - chosen.detach()).square().mean(-1).to(wide)
        of_codebook = (vectors.detach() - chosen).square().mean(-1).to(wide)
        return [chosen.detach() + (vectors - vectors.detach()), of_vectors, of_codebook]

    numbers = Numbers("cpu")
    return Derivatives(ours, plain, (numbers.normal(60, 24), numbers.normal(12, 24)))


def _sizes(cuda: bool, quick: bool) -> Sizes:
    sizes = _GPU_SIZES if cuda else _CPU_SIZES
    return [
        {"rows": rows, "dim": dim, "num_codes": codes, "compile_it": rows in _COMPILED_ROWS}
        for rows, dim, codes in (sizes[:2] if quick else sizes)
    ]


def _by_matrix(vectors: Tensor, codebook: Tensor) -> Tensor:
    """As it is written without a kernel: the product with all codewords, then argmin."""
    return torch.addmm(0.5 * codebook.square().sum(1), vectors, codebook.t(), alpha=-1).argmin(1)


def _problem(device: torch.device, rows: int, dim: int, num_codes: int) -> Problem:
    """`rows` vectors in a codebook; sides whose names end in a precision multiply in it."""
    numbers = Numbers(device)
    vectors, codebook = numbers.normal(rows, dim), numbers.normal(num_codes, dim)
    precisions = ("bf16", "tf32", "tf32x3") if device.type == "cuda" else ()

    def of_precision(precision: Any) -> Callable[[], Tensor]:
        return lambda: vq_lookup(vectors, codebook, precision=precision).indices

    return Problem(
        {"size": [rows, dim, num_codes]},
        flops=2 * rows * num_codes * dim,
        bytes=4 * (2 * rows * dim + num_codes * dim) + 8 * rows,
        ours={f"ours {precision}": of_precision(precision) for precision in ("ieee", *precisions)},
        plain=_by_matrix if rows * num_codes <= _MOST_DISTANCES else None,
        bind=lambda function: partial(function, vectors, codebook),
        inputs={"vectors": vectors, "codebook": codebook},
    )


SPEC = OpSpec(
    vq_lookup,
    _calls,
    _arguments,
    vq_lookup_reference,
    about="""
The nearest codeword of each vector, Euclidean or cosine, without the matrix of distances. A `VQLookup` has `indices`,
`quantized` with the straight-through gradient, and, when asked, both losses of a VQ-VAE and the statistics of
`ema_update`. `precision` is that of float32 products on a GPU: `ieee`; `tf32x3`, nearly as exact and on matrix units;
`tf32`; `bf16`.
""",
    example="""
import torch
from iris_fast.kernels import vq_lookup

vectors, codebook = torch.randn(64, 16, 512), torch.randn(512, 512, requires_grad=True)
found = vq_lookup(vectors, codebook, commitment=True)  # indices (64, 16), quantized (64, 16, 512)
(found.commitment_loss + found.codebook_loss).backward()
""",
    launches=_launches,
    derivatives=_derivatives,
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"rows": 1024, "dim": 512, "num_codes": 512},
        Row(
            "(…, dim), (num_codes, dim) → (…) int64, (…, dim)",
            "none; float64 by PyTorch",
            {"size": [1024, 512, 512]},
            {"size": [16384, 512, 512]},
            "{size[0]} × {size[1]}, {size[2]} codes",
            ("ours tf32x3", "ours ieee"),
        ),
        peers=("vector-quantize-pytorch", "flash-kmeans"),
    ),
)

"""Draws from heads of too many classes for one program: the part of `linear_sample` that works on chunks of a row.

The first launch multiplies and keeps of each chunk of classes its largest logit and its mass, brought to that logit;
the second chooses a row's chunk by the masses; the third multiplies again, only for the chunks that some row of its
block drew, and searches them. Logits are never written: 16 bytes a row and chunk are (20 with information).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.rounding import dot_of, rounded_to
from ..common.triton import jit, tl, triton
from .tiles import (
    address_words,
    choose_chunk,
    chunk_information,
    exp_nonpositive,
    masses_of,
    readable,
    scaled_distance,
    search_chunk,
)


@jit
def linear_tile(
    x,  # (rows, dim), numbers of a row adjacent
    x_stride,
    weight,  # (classes, dim), numbers of a class adjacent
    weight_stride,
    bias,  # (classes,), or None
    index,  # (BLOCK_ROWS,) int64: which rows
    first_class,
    rows,
    classes,
    dim,
    HAS_BIAS: tl.constexpr,
    TO_BFLOAT16: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Logits (BLOCK_ROWS, BLOCK_CLASSES) float32, -inf past the last class."""
    column = first_class.to(tl.int64) + tl.arange(0, BLOCK_CLASSES)
    part = tl.arange(0, BLOCK_DIM)
    logits = tl.zeros([index.shape[0], BLOCK_CLASSES], tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        inside = start + part < dim
        left = tl.load(
            x + index[:, None] * x_stride + start + part[None, :],
            mask=(index < rows)[:, None] & inside[None, :],
            other=0.0,
        )
        right = tl.load(
            weight + column[None, :] * weight_stride + start + part[:, None],
            mask=(column < classes)[None, :] & inside[:, None],
            other=0.0,
        )
        if TO_BFLOAT16:
            left = rounded_to(left.to(tl.float32), tl.bfloat16)
            right = rounded_to(right.to(tl.float32), tl.bfloat16)
        logits = dot_of(left, right, logits, PRECISION)
    if HAS_BIAS:
        logits += tl.load(bias + column, mask=column < classes, other=0.0).to(tl.float32)[None, :]
    return readable(tl.where((column < classes)[None, :], logits, -float("inf")))


@jit
def _linear_chunk_sums_kernel(
    x,  # (rows, dim), numbers of a row adjacent
    x_stride,
    weight,  # (classes, dim), numbers of a class adjacent
    weight_stride,
    bias,  # (classes,), or None
    maxima,  # out: (rows, chunks) float32: the largest logit of each chunk
    sums,  # out: (rows, chunks) int64: its mass, relative to that
    moments,  # out: (rows, chunks) float32: its sum of p x, relative to that, or None
    rows,
    classes,
    dim,
    num_chunks,
    temperature,
    scale,
    HAS_BIAS: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr,
    WITH_INFO: tl.constexpr,
    TO_BFLOAT16: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    chunk = tl.program_id(1)
    logits = linear_tile(
        x,
        x_stride,
        weight,
        weight_stride,
        bias,
        index,
        chunk.to(tl.int64) * BLOCK_CLASSES,
        rows,
        classes,
        dim,
        HAS_BIAS,
        TO_BFLOAT16,
        PRECISION,
        BLOCK_CLASSES,
        BLOCK_DIM,
    )
    largest = tl.max(logits, axis=1)
    distance = scaled_distance(logits, largest[:, None], temperature, HAS_TEMPERATURE)
    probabilities = exp_nonpositive(distance)
    slot = index * num_chunks + chunk
    tl.store(maxima + slot, largest, mask=index < rows)
    tl.store(sums + slot, tl.sum(masses_of(probabilities, scale), axis=1), mask=index < rows)
    if WITH_INFO:
        tl.store(moments + slot, tl.sum(probabilities * distance, axis=1), mask=index < rows)


@jit(do_not_specialize=["purpose"])
def _choose_chunk_kernel(
    maxima,  # (rows, chunks) float32
    sums,  # (rows, chunks) int64
    moments,  # (rows, chunks) float32, or None
    seed,  # () int64
    row,  # (rows,) int64, or None
    position,  # (rows,) int64
    position_stride,
    chosen,  # out: (rows,) int32: the chunk of the draw
    thresholds,  # out: (rows,) int64: the mass to pass in it, -1 where the row is no distribution
    log_probs,  # out: (rows,) float32: what remains but for x in the chunk, or None
    entropies,  # out: (rows,) float32, or None
    rows,
    num_chunks,
    purpose,
    temperature,
    scale,
    HAS_ROW: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr,
    WITH_INFO: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    slot = tl.arange(0, BLOCK_CHUNKS)[None, :]
    offset = index[:, None] * num_chunks + slot
    chunk_maxima = tl.load(maxima + offset, mask=slot < num_chunks, other=-float("inf"))
    chunk_sums = tl.load(sums + offset, mask=slot < num_chunks, other=0)
    word = address_words(seed, row, position, position_stride, purpose, index, index < rows, HAS_ROW)
    chunk, threshold, shift, factor, own_shift, valid = choose_chunk(
        chunk_maxima, chunk_sums, word, temperature, HAS_TEMPERATURE
    )
    tl.store(chosen + index, tl.where(valid, chunk, 0))
    tl.store(thresholds + index, tl.where(valid, threshold, -1))
    if WITH_INFO:
        chunk_moments = tl.load(moments + offset, mask=slot < num_chunks, other=0.0)
        log_prob, entropy = chunk_information(
            tl.zeros_like(own_shift), own_shift, chunk_sums, chunk_moments, shift, factor, scale, valid
        )
        tl.store(log_probs + index, log_prob)
        tl.store(entropies + index, entropy)


@jit
def _linear_chunk_sample_kernel(
    x,  # (rows, dim), numbers of a row adjacent
    x_stride,
    weight,  # (classes, dim), numbers of a class adjacent
    weight_stride,
    bias,  # (classes,), or None
    chosen,  # (rows,) int32
    thresholds,  # (rows,) int64
    tokens,  # out: (rows,) int64; each is written by the program of the chunk that holds it
    log_probs,  # in and out: (rows,) float32, or None
    rows,
    classes,
    dim,
    temperature,
    scale,
    HAS_BIAS: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr,
    WITH_INFO: tl.constexpr,
    TO_BFLOAT16: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    SPAN: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    own = tl.program_id(1)
    here = (index < rows) & (tl.load(chosen + index, mask=index < rows, other=-1) == own)
    if tl.max(here.to(tl.int32), axis=0) > 0:
        logits = linear_tile(
            x,
            x_stride,
            weight,
            weight_stride,
            bias,
            index,
            own.to(tl.int64) * BLOCK_CLASSES,
            rows,
            classes,
            dim,
            HAS_BIAS,
            TO_BFLOAT16,
            PRECISION,
            BLOCK_CLASSES,
            BLOCK_DIM,
        )
        distance = scaled_distance(logits, tl.max(logits, axis=1)[:, None], temperature, HAS_TEMPERATURE)
        probabilities = exp_nonpositive(distance)
        threshold = tl.load(thresholds + index, mask=here, other=-1)
        within = tl.where(threshold >= 0, search_chunk(probabilities, threshold, scale, SPAN), 0)
        tl.store(tokens + index, own.to(tl.int64) * BLOCK_CLASSES + within, mask=here)
        if WITH_INFO:
            column = tl.arange(0, BLOCK_CLASSES)[None, :]
            drawn = tl.sum(tl.where(column == within[:, None], distance, 0.0), axis=1)
            remainder = tl.load(log_probs + index, mask=here, other=0.0)
            tl.store(log_probs + index, remainder + drawn, mask=here)


def launch_many_classes(
    operands: tuple,  # x, its stride, weight, its stride, bias
    address: tuple,  # seed, row, position, its stride
    outputs: tuple[Tensor, Tensor | None, Tensor | None],
    sizes: tuple[int, int, int],  # rows, classes, dim
    distribution: tuple[float, float],  # temperature, units of mass in a p of 1
    purpose: int,
    flags: dict[str, Any],
) -> None:
    """The three launches, with the arguments that `launch_linear_sample` has prepared."""
    x, row = operands[0], address[1]
    rows, classes, _ = sizes
    blocks, chunks = triton.cdiv(rows, flags["BLOCK_ROWS"]), triton.cdiv(classes, flags["BLOCK_CLASSES"])
    with_info = flags["WITH_INFO"]
    maxima, moments = torch.empty(2, rows, chunks, dtype=torch.float32, device=x.device).unbind()
    sums = torch.empty(rows, chunks, dtype=torch.int64, device=x.device)
    parts = (maxima, sums, moments if with_info else None)
    chosen = torch.empty(rows, dtype=torch.int32, device=x.device)
    thresholds = torch.empty(rows, dtype=torch.int64, device=x.device)
    without_span = {name: value for name, value in flags.items() if name != "SPAN"}
    _linear_chunk_sums_kernel[(blocks, chunks)](
        *operands, *parts, *sizes, chunks, *distribution, **without_span
    )
    _choose_chunk_kernel[(rows,)](
        *parts,
        *address,
        chosen,
        thresholds,
        *outputs[1:],
        rows,
        chunks,
        purpose,
        *distribution,
        HAS_ROW=row is not None,
        HAS_TEMPERATURE=flags["HAS_TEMPERATURE"],
        WITH_INFO=with_info,
        BLOCK_CHUNKS=triton.next_power_of_2(chunks),
        num_warps=1,
    )
    _linear_chunk_sample_kernel[(blocks, chunks)](
        *operands, chosen, thresholds, *outputs[:2], *sizes, *distribution, **flags
    )
